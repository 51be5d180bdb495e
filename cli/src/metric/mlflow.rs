//! Measurements of MLflow's file store.
//!
//! ```text
//! mlruns/EXPERIMENT/RUN/meta.yaml       when it began (`start_time`), whether it was deleted (`lifecycle_stage`)
//! mlruns/EXPERIMENT/RUN/metrics/…/NAME  a line for each value: milliseconds since 1970, value, step
//! ```

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use flair_node::api::types::{MetricValue, Problem};

use crate::context::note;

/// Most bytes of one metric's history that are read.
const LARGEST: u64 = 1 << 28;
/// Most metrics of a run that are read; far more than a commit can have.
const MOST: usize = 4096;
/// Folders within folders that are looked into.
const DEPTH: usize = 8;
/// What MLflow measures of the machine, not of the model.
const SYSTEM: &str = "system/";
/// Beginnings of names that tell on what was measured, as `val_loss`.
const SPLITS: [&str; 6] = ["train", "val", "valid", "validation", "test", "eval"];

/// The last value of each metric of a run: the one in `folder`, or the newest in a store.
pub(super) fn read(folder: &Path) -> Result<Vec<MetricValue>, Problem> {
    let run = if folder.join("metrics").is_dir() { folder.to_owned() } else { newest(folder)? };
    note(&format!("Metrics of MLflow's run {}", run.display()));
    let root = run.join("metrics");
    let mut files = Vec::new();
    list(&root, DEPTH, &mut files)?;
    files.sort();
    let mut metrics = Vec::new();
    for file in files {
        let key = file.strip_prefix(&root).unwrap_or(&file).to_string_lossy().into_owned();
        if key.starts_with(SYSTEM) {
            continue;
        }
        match last(&file)? {
            Some(value) if value.is_finite() => {
                let (split, name) = named(&key);
                metrics.push(MetricValue { split: split.to_owned(), name: name.to_owned(), value, n: 0 });
            }
            Some(value) => note(&format!("{key} was left out: it is {value}")),
            None => {}
        }
    }
    if metrics.is_empty() {
        return Err(Problem::invalid(format!("{} has no metrics", run.display())));
    }
    Ok(metrics)
}

/// The run of a store that began last.
fn newest(store: &Path) -> Result<PathBuf, Problem> {
    let mut found: Option<(u64, PathBuf)> = None;
    for experiment in folders(store)? {
        for run in folders(&experiment)? {
            let Ok(text) = fs::read_to_string(run.join("meta.yaml")) else { continue };
            let field = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                line.map(|value| value.trim().trim_matches('\'').to_owned())
            };
            let Some(began) = field("start_time").and_then(|time| time.parse().ok()) else { continue };
            let deleted = field("lifecycle_stage").is_some_and(|stage| stage == "deleted");
            if !deleted && found.as_ref().is_none_or(|(newest, _)| *newest < began) {
                found = Some((began, run));
            }
        }
    }
    found.map(|(_, run)| run).ok_or_else(|| {
        Problem::missing(format!("{} holds no run of MLflow", store.display()))
            .help("name the folder `mlruns` of MLflow's file store, one run's folder in it, or a JSON file")
    })
}

/// The folders in a folder, but for hidden ones: MLflow's bin is one.
fn folders(folder: &Path) -> Result<Vec<PathBuf>, Problem> {
    let wrong = |error: std::io::Error| Problem::invalid(format!("{}: {error}", folder.display()));
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).map_err(wrong)? {
        let entry = entry.map_err(wrong)?;
        if entry.path().is_dir() && !entry.file_name().as_encoded_bytes().starts_with(b".") {
            all.push(entry.path());
        }
    }
    Ok(all)
}

/// All files below a folder: a metric's name may have slashes.
fn list(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), Problem> {
    let wrong = |error: String| Problem::invalid(format!("{}: {error}", folder.display()));
    if depth == 0 {
        return Err(wrong("folders within folders without end".into()));
    }
    for entry in fs::read_dir(folder).map_err(|error| wrong(error.to_string()))? {
        let path = entry.map_err(|error| wrong(error.to_string()))?.path();
        if path.is_dir() {
            list(&path, depth - 1, files)?;
        } else if files.len() == MOST {
            return Err(wrong(format!("there are more than {MOST} metrics")));
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// The value of a metric at its last step, the last written of several; none where there is none.
fn last(file: &Path) -> Result<Option<f64>, Problem> {
    let wrong = |error: String| Problem::invalid(format!("{}: {error}", file.display()));
    let open = File::open(file).map_err(|error| wrong(error.to_string()))?;
    let mut found: Option<(i64, f64)> = None;
    for line in BufReader::new(open.take(LARGEST)).lines() {
        let line = line.map_err(|error| wrong(error.to_string()))?;
        let mut words = line.split_whitespace();
        let (Some(_), Some(value)) = (words.next(), words.next()) else { continue };
        let value = value.parse().map_err(|_| wrong(format!("`{line}` is no line of MLflow's metrics")))?;
        let step =
            words.next().map_or(Ok(0), str::parse).map_err(|_| wrong(format!("`{line}` has no step")))?;
        if found.is_none_or(|(newest, _)| newest <= step) {
            found = Some((step, value));
        }
    }
    Ok(found.map(|(_, value)| value))
}

/// A metric's split and name: `val/loss` and `val_loss` are the loss on `val`; a name without a split is of training.
fn named(key: &str) -> (&str, &str) {
    if let Some((split, name)) = key.split_once('/') {
        return (split, name);
    }
    match key.split_once('_') {
        Some((split, name)) if SPLITS.contains(&split) && !name.is_empty() => (split, name),
        _ => ("train", key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run as MLflow 3.17 wrote it.
    fn run(store: &Path, id: &str, began: u64, stage: &str, metrics: &[(&str, &str)]) -> PathBuf {
        let run = store.join("612720640844444500").join(id);
        for (name, lines) in metrics {
            let file = run.join("metrics").join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, lines).unwrap();
        }
        let meta = format!(
            "artifact_uri: file:///home/ben/mlruns/612720640844444500/{id}/artifacts\nend_time: 1795553377259\n\
             entry_point_name: ''\nexperiment_id: '612720640844444500'\nlifecycle_stage: {stage}\nrun_id: {id}\n\
             run_name: two\nsource_name: ''\nsource_type: 4\nsource_version: ''\nstart_time: {began}\nstatus: 3\n\
             tags: []\nuser_id: ben\n"
        );
        fs::write(run.join("meta.yaml"), meta).unwrap();
        run
    }

    #[test]
    fn the_newest_run_gives_the_last_value_of_each_metric() {
        let top = tempfile::tempdir().unwrap();
        let store = top.path();
        fs::create_dir_all(store.join(".trash")).unwrap();
        fs::create_dir_all(store.join("0")).unwrap();
        fs::write(store.join("0/meta.yaml"), "experiment_id: '0'\nlifecycle_stage: active\n").unwrap();
        assert!(read(store).unwrap_err().message.contains("no run"));
        let first = run(store, "4b1c", 1_795_553_377_216, "active", &[("val_loss", "1795553377220 0.9 0\n")]);
        run(
            store,
            "3de9",
            1_795_553_377_238,
            "active",
            &[
                (
                    "val/loss",
                    "1795553377247 0.7 0\n1795553377248 0.6 1\n1795553377250 0.49999999999999994 2\n",
                ),
                // A run that was gone on with from an earlier step.
                ("train_loss", "1795553377247 0.6 0\n1795553377250 0.4 2\n1795553377251 0.5 1\n"),
                ("accuracy", "1795553377247 0.8 0\n1795553377248 0.81 0\n"),
                ("system/cpu", "1795553377247 3.0 0\n"),
                ("bad", "1795553377259 nan 0\n"),
            ],
        );
        run(store, "ffff", 1_795_553_377_999, "deleted", &[("val_loss", "1 0.1 0\n")]);
        let values = |folder: &Path| -> Vec<(String, f64)> {
            let metrics = read(folder).unwrap();
            metrics
                .into_iter()
                .map(|metric| (format!("{}/{}", metric.split, metric.name), metric.value))
                .collect()
        };
        assert_eq!(
            values(store),
            [
                ("train/accuracy".into(), 0.81),
                ("train/loss".into(), 0.4),
                ("val/loss".into(), 0.499_999_999_999_999_94)
            ]
        );
        assert_eq!(values(&first), [("val/loss".into(), 0.9)]);
        fs::write(first.join("metrics/val_loss"), "1795553377220 low 0\n").unwrap();
        assert!(read(&first).unwrap_err().message.contains("no line of MLflow's"));
    }
}
