//! `flair commit`

use std::collections::BTreeMap;
use std::path::PathBuf;

use flair_node::api::types::{
    CommitRequest, Committed, Dp, ExternalRequest, MetricValue, PrivacyClaim, Problem,
};

use crate::context::Context;
use crate::metric;
use crate::render::work;

/// Keep what training changed as a draft
///
/// Drafts stay on this machine and unsigned until `flair push`. What is stated here leaves the machine with the push.
///
/// With `--dp` what training changed since the base is clipped to an L2 norm, and Gaussian noise is added to every weight,
/// from the system's random source. The folder's files hold the noised model afterwards, drafts without noise are replaced,
/// and the trained weights can't be published any more. `flair privacy` tells what was spent.
///
/// A commit is an update of the branch's model, which others aggregate. Two kinds are not, and become the branch's next
/// commit once a maintainer or delegate accepts them: `--migrate`, with which tensors and side files may be other ones, and
/// `--external`, for a model that was made of updates by another program.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair commit -m \"site B, 2 epochs\" --examples 812 --metric val/loss=0.41
  flair commit -m \"overnight\" --examples 9000 --steps 4000 --metrics-from metrics.json
  flair commit -m \"overnight\" --examples 9000 --metrics-from mlruns
  flair commit -m \"trained in bf16\" --cast
  flair commit -m \"site B\" --dp clip=1,noise=1.2
  flair commit -m \"site B\" --dp clip=1,noise=1.2 --keep-clean /safe/trained
  flair commit -m \"site B\" --claim clip=1,noise=1.1,sampling=0.01,steps=500,epsilon=1.9,delta=1e-5,accountant=prv
  flair commit -m \"12 classes\" --migrate
  flair commit -m \"round 3\" --external --engine \"flower 1.41 FedAdam\" --input 4f5a6b7c8d")]
pub(crate) struct Arguments {
    /// What was done
    #[arg(short, long)]
    message: String,
    /// Examples trained on: the weight of the update
    #[arg(long, value_name = "N")]
    examples: Option<u64>,
    /// Optimiser steps
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Passes over the data
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
    /// Random seed of the training
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// A measurement, with @N if measured on N examples; can be given often
    #[arg(long, value_name = "SPLIT/NAME=VALUE", value_parser = metric::parse)]
    metric: Vec<MetricValue>,
    /// A JSON file with measurements, {"val/loss": 0.41}, or MLflow's folder `mlruns` for its newest run, or one run of it
    #[arg(long, value_name = "PATH")]
    metrics_from: Option<PathBuf>,
    /// Convert dtypes to those of the branch
    #[arg(long)]
    cast: bool,
    /// Clip what training changed to this L2 norm, and add noise of this multiple of it to each weight
    #[arg(long, value_name = "clip=NORM,noise=FACTOR", value_parser = dp)]
    dp: Option<Dp>,
    /// What training itself did for privacy, which goes into the update as you say it; nobody can check it
    ///
    /// For DP-SGD by Opacus, TensorFlow Privacy and the like. Keys: clip, noise, sampling, steps, epsilon, delta, accountant;
    /// and unit (example or person; example where none is given), neighbouring (add-remove), mechanism (dp-sgd)
    #[arg(long, value_name = "KEY=VALUE,…", value_parser = claim, conflicts_with = "dp")]
    claim: Option<Box<PrivacyClaim>>,
    /// Copy the trained files to this new folder before they are overwritten
    #[arg(long, value_name = "FOLDER", requires = "dp")]
    keep_clean: Option<PathBuf>,
    /// Not an update: other tensors, shapes, dtypes or side files from here on
    #[arg(long, conflicts_with_all = TRAINED)]
    migrate: bool,
    /// Not an update: a model that another program made of updates, which nobody can derive again
    #[arg(long, requires = "engine", conflicts_with_all = TRAINED, conflicts_with = "migrate")]
    external: bool,
    /// With --external: what made it
    #[arg(long, requires = "external", value_name = "TEXT")]
    engine: Option<String>,
    /// With --external: an update that went into it; can be given often
    #[arg(long, requires = "external", value_name = "COMMIT")]
    input: Vec<String>,
}

/// What is said of training, and so of updates only.
const TRAINED: [&str; 8] = ["examples", "steps", "epochs", "seed", "metric", "metrics_from", "dp", "claim"];

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let mut metrics = match self.metrics_from {
            Some(path) => metric::read(&context.absolute(&path))?,
            None => Vec::new(),
        };
        metrics.extend(self.metric);
        let keep_clean = self.keep_clean.map(|path| context.absolute(&path));
        let dp = self.dp.map(|dp| Dp { keep_clean, ..dp });
        let request = CommitRequest {
            place: context.place(),
            message: self.message,
            examples: self.examples,
            steps: self.steps,
            epochs: self.epochs,
            seed: self.seed,
            metrics,
            cast: self.cast,
            dp,
            claim: self.claim.map(|claim| *claim),
            migrate: self.migrate,
            external: self.engine.map(|engine| ExternalRequest { engine, inputs: self.input }),
        };
        let answer: Committed = context.post("/v1/commit", &request).await?;
        context.print(&answer, work::committed)
    }
}

/// Reads `clip=1,noise=1.2`, in either order.
fn dp(text: &str) -> Result<Dp, String> {
    let (mut clip, mut noise) = (None, None);
    for part in text.split(',') {
        let place = match part.split_once('=') {
            Some(("clip", value)) => Some((&mut clip, value)),
            Some(("noise", value)) => Some((&mut noise, value)),
            _ => None,
        };
        let (place, value) = place.ok_or_else(|| format!("`{part}` is neither clip=… nor noise=…"))?;
        if place.replace(value.to_owned()).is_some() {
            return Err(format!("`{part}` is said twice"));
        }
    }
    match (clip, noise) {
        (Some(clip), Some(noise)) => Ok(Dp { clip, noise, keep_clean: None }),
        (None, _) => Err("clip=… is missing: the largest L2 norm that an update may have".to_owned()),
        (_, None) => {
            Err("noise=… is missing: the noise's standard deviation as a multiple of clip".to_owned())
        }
    }
}

/// Reads `clip=1,noise=1.1,…`, in any order.
fn claim(text: &str) -> Result<Box<PrivacyClaim>, String> {
    let mut said = BTreeMap::new();
    for part in text.split(',') {
        let (name, value) =
            part.split_once('=').ok_or_else(|| format!("`{part}` does not read KEY=VALUE"))?;
        if said.insert(name.trim(), value.trim().to_owned()).is_some() {
            return Err(format!("`{name}` is said twice"));
        }
    }
    let mut take = |name: &str, default: Option<&str>| {
        let value = said.remove(name).or_else(|| default.map(str::to_owned));
        value.ok_or_else(|| format!("{name}=… is missing"))
    };
    let claim = PrivacyClaim {
        unit: take("unit", Some("example"))?,
        neighbouring: take("neighbouring", Some("add-remove"))?,
        mechanism: take("mechanism", Some("dp-sgd"))?,
        clip: take("clip", None)?,
        noise: take("noise", None)?,
        sampling: take("sampling", None)?,
        steps: take("steps", None)?.parse().map_err(|error| format!("steps: {error}"))?,
        epsilon: take("epsilon", None)?,
        delta: take("delta", None)?,
        accountant: take("accountant", None)?,
    };
    match said.keys().next() {
        None => Ok(Box::new(claim)),
        Some(other) => Err(format!("`{other}` is nothing that a claim says")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clip_and_noise_come_in_either_order_and_both_are_needed() {
        let read = |text| dp(text).map(|dp| (dp.clip, dp.noise));
        assert_eq!(read("noise=1.2,clip=0.5"), Ok(("0.5".into(), "1.2".into())));
        for (text, named) in
            [("clip=1", "noise"), ("noise=1", "clip"), ("clip=1,clip=2", "twice"), ("1,2", "`1`")]
        {
            assert!(read(text).unwrap_err().contains(named), "{text}");
        }
    }

    #[test]
    fn a_claim_says_all_that_there_is_to_say_once() {
        let whole = "noise=1.1,clip=1,sampling=0.01,steps=500,epsilon=1.9,delta=1e-5,accountant=prv";
        let read = claim(whole).unwrap();
        assert_eq!((read.unit.as_str(), read.mechanism.as_str(), read.steps), ("example", "dp-sgd", 500));
        assert_eq!(claim(&format!("{whole},unit=person")).unwrap().unit, "person");
        for (text, named) in [
            ("clip=1", "noise=… is missing"),
            (&format!("{whole},clip=2"), "`clip` is said twice"),
            (&format!("{whole},colour=red"), "`colour`"),
            (&whole.replace("500", "many"), "steps"),
            ("clip", "KEY=VALUE"),
        ] {
            assert!(claim(text).unwrap_err().contains(named), "{text}");
        }
    }
}
