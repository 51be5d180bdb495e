//! `flair init`

use std::collections::BTreeMap;
use std::path::PathBuf;

use flair_node::api::types::{Init, Initialised, Problem};

use super::external;
use crate::context::Context;
use crate::render::setup;

/// Start a repository from a model
///
/// The folder of the model becomes a working folder, the model the first commit of the first branch.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair init model.safetensors --name digits -m \"before training\"
  flair init bert/ --every 5 --open
  flair init adapter/ --external-base /models/llama
  flair init model.safetensors --private                 # then: flair ticket --role reader
  flair init model.safetensors --aggregation krum --set dishonest=2 --every 7
  flair init model.safetensors --role encoder.weight=exact --role 'head.*=exact'
  flair init model.safetensors --local 'bn*'")]
pub(crate) struct Arguments {
    /// A .safetensors file, or a folder with several and their side files
    model: PathBuf,
    /// The repository's name [default: the model's]
    #[arg(long)]
    name: Option<String>,
    /// The first commit's message
    #[arg(short, long, default_value = "first model")]
    message: String,
    /// The first branch's name
    #[arg(long, default_value = "main")]
    branch: String,
    /// How aggregation treats a tensor, or all that match a pattern, where their names do not tell; can be given often
    ///
    /// Roles: float, batch-norm, counter, exact, local, lora-a, lora-b. In patterns `*` stands for any letters and `?` for
    /// one; a name in full counts before patterns
    #[arg(long, value_name = "TENSOR=ROLE", value_parser = role)]
    role: Vec<(String, String)>,
    /// Tensors, by name or pattern, that every site keeps for itself; short for --role TENSOR=local, can be given often
    ///
    /// Commits have the value that this model has, which clones begin with; what sites train is in none. FedBN keeps
    /// batch-norms so
    #[arg(long, value_name = "TENSOR")]
    local: Vec<String>,
    /// Aggregate whenever this many persons have pushed, instead of three quarters of the active ones
    #[arg(long, value_name = "PERSONS", value_parser = clap::value_parser!(u32).range(1..))]
    every: Option<u32>,
    /// The aggregation rule
    ///
    /// For people who trust each other: fedbuff, fedavg, fednova, fedasync, fedavgm, fedadagrad, fedadam, fedyogi. For
    /// people who may not: median, trimmed-mean, krum, multi-krum, bulyan, geometric-median, centred-clipping,
    /// norm-clipping [default: fedbuff]
    #[arg(long, value_name = "RULE")]
    aggregation: Option<String>,
    /// A setting of the rule, such as eta=0.5, staleness=constant or server=adam; can be given often
    #[arg(long, value_name = "SETTING=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
    /// The model that an adapter is for: pinned by its tensors' hashes, never stored or sent
    ///
    /// A .safetensors file or a folder. It is written down beside the adapter in external_base.json, so that everybody can
    /// tell whether they have the same model
    #[arg(long, value_name = "PATH")]
    external_base: Option<PathBuf>,
    /// Whoever asks becomes a contributor
    #[arg(long, conflicts_with = "private")]
    open: bool,
    /// Only who has a role can read, for good
    ///
    /// Nodes give operations and models to nobody else, and answer others as if the repository were not there.
    #[arg(long)]
    private: bool,
    #[command(flatten)]
    person: super::Person,
}

fn role(text: &str) -> Result<(String, String), String> {
    let (tensor, role) =
        text.rsplit_once('=').ok_or("a role reads `tensor=role`, `encoder.weight=exact` say")?;
    Ok((tensor.into(), role.into()))
}

pub(super) fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a setting reads `name=value`, `eta=0.5` say")?;
    Ok((name.into(), value.into()))
}

/// Roles by name or pattern, each of which is told once.
fn roles(given: Vec<(String, String)>, local: Vec<String>) -> Result<BTreeMap<String, String>, Problem> {
    let mut roles = BTreeMap::new();
    for (tensor, role) in
        given.into_iter().chain(local.into_iter().map(|tensor| (tensor, "local".to_owned())))
    {
        match roles.insert(tensor.clone(), role.clone()) {
            Some(other) if other != role => {
                return Err(Problem::invalid(format!("`{tensor}` is given two roles, {other} and {role}")));
            }
            _ => {}
        }
    }
    Ok(roles)
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let model = context.absolute(&self.model);
        let named = || {
            let model = model.canonicalize().unwrap_or_else(|_| model.clone());
            let part = if model.is_dir() { model.file_name() } else { model.file_stem() };
            part.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
        };
        if let Some(path) = &self.external_base {
            external::pin(context, &model, path).await?;
        }
        let request = Init {
            name: self.name.clone().unwrap_or_else(named),
            model: model.clone(),
            message: self.message,
            branch: self.branch,
            roles: roles(self.role, self.local)?,
            every: self.every,
            aggregation: self.aggregation,
            settings: self.set.into_iter().collect(),
            open: self.open,
            private: self.private,
            person: self.person.name(),
        };
        let answer: Initialised = context.post("/v1/init", &request).await?;
        if let Some(path) = &self.external_base {
            external::check(context, model, path).await?;
        }
        context.print(&answer, setup::initialised)
    }
}
