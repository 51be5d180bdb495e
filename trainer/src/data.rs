//! Private data: a safetensors file with a tensor of inputs and one of targets, a row for each example.

use std::path::Path;

use flair_tensors::TensorInfo;
use tch::{Kind, Tensor};

use crate::Problem;
use crate::measure::Loss;
use crate::module::is_float;
use crate::weights::Weights;

/// Inputs and targets. They stay in this process.
#[derive(Debug)]
pub struct Data {
    /// Examples × whatever the module takes.
    pub inputs: Tensor,
    /// Examples × whatever the loss takes.
    pub targets: Tensor,
    /// How many examples.
    pub count: i64,
}

impl Data {
    /// Reads the tensors with these names, for a module that computes in `kind`.
    ///
    /// # Errors
    /// What is not safetensors; a tensor that is missing; no rows, or not as many of both; numbers that are not finite;
    /// targets that the loss can't be computed of.
    pub fn load(path: &Path, inputs: &str, targets: &str, kind: Kind, loss: Loss) -> Result<Self, Problem> {
        let mut file = Weights::open(path)?;
        let (first, second) = (found(&file, inputs, "--inputs")?, found(&file, targets, "--targets")?);
        let rows = |info: &TensorInfo| {
            let count = info.shape.first().copied().unwrap_or_default();
            i64::try_from(count).ok().filter(|count| *count > 0).ok_or_else(|| {
                let why =
                    format!("`{}` has shape {:?}: no rows, one for each example", info.name, info.shape);
                Problem::file(path, why)
            })
        };
        let (count, others) = (rows(&first)?, rows(&second)?);
        if count != others {
            let why =
                format!("`{inputs}` has {count} rows and `{targets}` {others}: one each for an example");
            return Err(Problem::file(path, why));
        }
        let mut read = |info: &TensorInfo| -> Result<Tensor, Problem> {
            let tensor = file.tensor(info)?;
            if is_float(tensor.f_kind()?) && tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
                return Err(Problem::file(path, format!("`{}` holds a NaN or an infinity", info.name)));
            }
            Ok(tensor)
        };
        let inputs = read(&first)?;
        let inputs = if is_float(inputs.f_kind()?) { inputs.f_to_kind(kind)? } else { inputs };
        let targets =
            loss.targets(&read(&second)?).map_err(|why| Problem::file(path, format!("`{targets}` {why}")))?;
        Ok(Self { inputs, targets, count })
    }

    /// Some of the examples, by their numbers.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn rows(&self, numbers: &Tensor) -> Result<(Tensor, Tensor), Problem> {
        Ok((self.inputs.f_index_select(0, numbers)?, self.targets.f_index_select(0, numbers)?))
    }
}

fn found(file: &Weights, name: &str, option: &str) -> Result<TensorInfo, Problem> {
    file.info(name).cloned().ok_or_else(|| {
        let names: Vec<&str> =
            file.header().tensors().iter().map(|info| info.name.as_str()).take(20).collect();
        Problem::file(file.path(), format!("there is no tensor `{name}`"))
            .help(format!("name one with {option}: {}", names.join(", ")))
    })
}
