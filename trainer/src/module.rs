//! A TorchScript module that holds a model's weights.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use flair_tensors::TensorInfo;
use tch::{CModule, Device, Kind, Tensor, no_grad};

use crate::problem::at;
use crate::weights::{Weights, kind, named, raw, shape};
use crate::{Problem, archive};

/// Most bytes of a module's file: 64 GiB.
const LARGEST: u64 = 64 << 30;
/// How many tensors that do not fit are named.
const NAMED: usize = 20;

/// A module, and which of its tensors are which of the model's files.
#[derive(Debug)]
pub struct Module {
    inner: CModule,
    parameters: BTreeSet<String>,
    /// Tensors under several names: name → the first of them.
    ties: BTreeMap<String, String>,
    /// Buffers that the model's files have not, as the module was saved with them.
    own: BTreeMap<String, Vec<u8>>,
}

impl Module {
    /// Loads a module. Its code runs only when it is trained or asked.
    ///
    /// # Errors
    /// What is no TorchScript module, or holds no parameters.
    pub fn load(path: &Path) -> Result<Self, Problem> {
        let length = std::fs::metadata(path).map_err(at(path))?.len();
        if length > LARGEST {
            return Err(Problem::file(path, format!("{length} bytes are too many for a module")));
        }
        let bytes = std::fs::read(path).map_err(at(path))?;
        let about = |problem: Problem| Problem {
            message: format!("{}: {}", path.display(), problem.message),
            ..problem
        };
        let opened = archive::opened(&bytes).map_err(about)?;
        let load = |mut bytes: &[u8]| CModule::load_data_on_device(&mut bytes, Device::Cpu);
        let names = |module: &CModule| module.named_parameters();
        let parameters =
            load(&bytes).and_then(|module| names(&module)).map_err(|error| about(error.into()))?;
        let parameters: BTreeSet<String> = parameters.into_iter().map(|(name, _)| name).collect();
        drop(bytes);
        if parameters.is_empty() {
            let why = "the module has no parameters: frozen modules hold their weights as constants";
            return Err(Problem::file(path, why).help("save it without `torch.jit.freeze`"));
        }
        let inner = load(&opened).map_err(|error| about(error.into()))?;
        drop(opened);
        let ties = ties(&names(&inner)?)?;
        Ok(Self { inner, parameters, ties, own: BTreeMap::new() })
    }

    /// All its tensors by name, parameters and buffers.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>, Problem> {
        Ok(self.inner.named_parameters()?.into_iter().collect())
    }

    /// Puts the files' tensors into the module, by name. Gives the buffers that only the module has.
    ///
    /// # Errors
    /// A tensor that one side lacks, of another shape or dtype; all of them are named.
    pub fn fill(&mut self, files: &mut [Weights]) -> Result<Vec<String>, Problem> {
        let mut tensors = self.tensors()?;
        let mut wrong = Vec::new();
        let mut filled = BTreeSet::new();
        for file in &mut *files {
            let infos: Vec<TensorInfo> = file.header().tensors().to_vec();
            for info in &infos {
                let Some(place) = tensors.get_mut(&info.name) else {
                    wrong.push(format!("`{}` {:?} is not in the module", info.name, info.shape));
                    continue;
                };
                if let Err(why) = fits(info, place) {
                    wrong.push(why);
                    continue;
                }
                let value = file.tensor(info)?.f_to_kind(place.f_kind()?)?;
                let before = self.names(&info.name).find(|other| filled.contains(*other));
                if let Some(other) = before
                    && raw(place)? != raw(&value)?
                {
                    let name = &info.name;
                    wrong.push(format!(
                        "`{name}` and `{other}` are one tensor in the module, and two in the file"
                    ));
                }
                no_grad(|| place.f_copy_(&value))?;
                filled.insert(info.name.clone());
            }
        }
        let mut own = BTreeMap::new();
        for (name, tensor) in &tensors {
            if filled.contains(name) || self.names(name).any(|other| filled.contains(other)) {
                continue;
            }
            if self.parameters.contains(name) {
                wrong.push(format!("`{name}` {:?} is not in the model's file", tensor.size()));
            } else {
                own.insert(name.clone(), raw(tensor)?);
            }
        }
        if !wrong.is_empty() {
            let more = wrong.len().saturating_sub(NAMED);
            wrong.truncate(NAMED);
            if more > 0 {
                wrong.push(format!("and {more} more"));
            }
            return Err(Problem::new(format!("module and model do not fit:\n  {}", wrong.join("\n  ")))
                .help("export the module from the model that the folder holds"));
        }
        self.own = own;
        Ok(self.own.keys().cloned().collect())
    }

    /// Names of the tensor that `name` is one of.
    fn names<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let first = self.ties.get(name).map_or(name, String::as_str);
        let others =
            self.ties.iter().filter(move |(_, kept)| *kept == first).map(|(other, _)| other.as_str());
        std::iter::once(first).chain(others)
    }

    /// What training may change: each parameter that asks for a gradient, with the other names it has.
    ///
    /// # Errors
    /// A module of which nothing asks for a gradient.
    pub fn trained(&self) -> Result<Vec<(Tensor, Vec<Tensor>)>, Problem> {
        let tensors = self.tensors()?;
        let wanted = |name: &str| {
            tensors.get(name).filter(|tensor| self.parameters.contains(name) && tensor.requires_grad())
        };
        let mut trained = Vec::new();
        for name in tensors.keys().filter(|name| !self.ties.contains_key(*name)) {
            if let Some(first) = wanted(name) {
                let others = self.names(name).filter(|other| other != name).filter_map(wanted);
                trained.push((first.shallow_clone(), others.map(Tensor::shallow_clone).collect()));
            }
        }
        if trained.is_empty() {
            return Err(Problem::new(
                "no parameter of the module asks for a gradient: there is nothing to train",
            )
            .help("call `requires_grad_(True)` on the parameters before the module is saved"));
        }
        Ok(trained)
    }

    /// Writes the module's tensors as one of the model's files.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn write(&self, like: &Weights, out: &mut impl std::io::Write) -> Result<(), Problem> {
        let tensors = self.tensors()?;
        like.write_like(out, |info| {
            let tensor = tensors.get(&info.name).zip(kind(info.dtype));
            let (tensor, kind) =
                tensor.ok_or_else(|| Problem::new(format!("`{}` is gone", info.name)).exit(1))?;
            raw(&tensor.f_to_kind(kind)?)
        })
    }

    /// Makes sure that training left alone what the model's files have no place for.
    ///
    /// # Errors
    /// A buffer that changed and that only the module has.
    pub fn check_own(&self) -> Result<(), Problem> {
        let tensors = self.tensors()?;
        for (name, before) in &self.own {
            if tensors.get(name).map(raw).transpose()?.as_ref() != Some(before) {
                let why =
                    format!("training changes `{name}`, a buffer that the model's file has no place for");
                return Err(Problem::new(why).help("make a repository of a model that has it"));
            }
        }
        Ok(())
    }

    /// Whether `other`'s files hold exactly what the module holds.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn same(&self, files: &mut [Weights]) -> Result<bool, Problem> {
        let tensors = self.tensors()?;
        for file in files {
            for info in file.header().tensors().to_vec() {
                let held = tensors.get(&info.name).zip(kind(info.dtype));
                let held = held.map(|(tensor, kind)| raw(&tensor.f_to_kind(kind)?)).transpose()?;
                if held != Some(file.bytes(&info)?) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The dtype that the module computes in: that of its first parameter of floats.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn kind(&self) -> Result<Kind, Problem> {
        let tensors = self.tensors()?;
        let kinds = tensors
            .iter()
            .filter(|(name, _)| self.parameters.contains(*name))
            .map(|(_, tensor)| tensor.kind());
        Ok(kinds.into_iter().find(|kind| is_float(*kind)).unwrap_or(Kind::Float))
    }

    /// Training mode, or the mode of use.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn mode(&mut self, training: bool) -> Result<(), Problem> {
        if training {
            self.inner.f_set_train()?;
        } else {
            self.inner.f_set_eval()?;
        }
        Ok(())
    }

    /// What the module makes of inputs.
    ///
    /// # Errors
    /// What the module's code refuses.
    pub fn forward(&self, inputs: &Tensor) -> Result<Tensor, Problem> {
        self.inner.forward_ts(&[inputs]).map_err(|error| {
            let problem = Problem::from(error);
            let shape = inputs.size();
            Problem {
                message: format!("the module refuses inputs of shape {shape:?}: {}", problem.message),
                ..problem
            }
        })
    }
}

/// Whether numbers have a fraction.
pub(crate) const fn is_float(kind: Kind) -> bool {
    matches!(kind, Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double)
}

/// Tensors in the same memory with the same shape: name → the name that comes first.
fn ties(tensors: &[(String, Tensor)]) -> Result<BTreeMap<String, String>, Problem> {
    let mut seen: BTreeMap<(usize, Vec<i64>, Vec<i64>), &str> = BTreeMap::new();
    let mut ties = BTreeMap::new();
    let mut sorted: Vec<&(String, Tensor)> = tensors.iter().collect();
    sorted.sort_by(|one, other| one.0.cmp(&other.0));
    for (name, tensor) in sorted {
        if !tensor.defined() {
            return Err(Problem::new(format!("`{name}` of the module is no tensor with numbers")));
        }
        if tensor.numel() == 0 {
            continue;
        }
        let place = (tensor.data_ptr() as usize, tensor.size(), tensor.stride());
        if let Some(first) = seen.get(&place) {
            ties.insert(name.clone(), (*first).to_owned());
        } else {
            seen.insert(place, name);
        }
    }
    Ok(ties)
}

/// Whether a file's tensor can be the module's: the same shape, and a dtype that holds all of the file's numbers.
fn fits(info: &TensorInfo, place: &Tensor) -> Result<(), String> {
    let name = &info.name;
    if place.size() != shape(info) {
        return Err(format!(
            "`{name}` is {:?} in the model's file and {:?} in the module",
            info.shape,
            place.size()
        ));
    }
    let (there, here) = (kind(info.dtype), place.kind());
    let wider = match there {
        Some(Kind::Half | Kind::BFloat16) => matches!(here, Kind::Float | Kind::Double),
        Some(Kind::Float) => here == Kind::Double,
        _ => false,
    };
    if there == Some(here) || wider {
        return Ok(());
    }
    Err(format!("`{name}` is {} in the model's file and {} in the module", info.dtype, named(here)))
}
