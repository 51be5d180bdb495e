//! A model's figures beside another's.

use super::settings::Direction;
use super::{Measurements, Settings};
use crate::api::types::{Measured, Problem};

/// The metrics that the settings list, of a model and of its base.
///
/// # Errors
/// A metric that was not printed, one that is no finite number, different numbers of examples.
pub fn compare(
    settings: &Settings,
    model: &Measurements,
    base: Option<&Measurements>,
) -> Result<Vec<Measured>, Problem> {
    if let Some(base) = base.filter(|base| base.n != model.n) {
        return Err(Problem::invalid(format!(
            "the command measured the model on {} examples and its base on {}",
            model.n, base.n
        ))
        .help("nothing was signed: figures can be compared only when they are of the same examples"));
    }
    let value = |of: &Measurements, name: &str| {
        of.values.get(name).copied().ok_or_else(|| {
            let printed: Vec<&str> = of.values.keys().map(String::as_str).collect();
            Problem::invalid(format!("the command did not print the metric `{name}`")).help(format!(
                "nothing was signed. It printed: {}. List under `better` what it prints",
                printed.join(", ")
            ))
        })
    };
    let measured = settings.better.iter().map(|(name, better)| {
        let better = match better {
            Direction::Higher => "higher",
            Direction::Lower => "lower",
        };
        let base = base.map(|base| value(base, name)).transpose()?;
        Ok(Measured { name: name.clone(), better: better.to_owned(), value: value(model, name)?, base })
    });
    measured.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::settings::Paths;
    use super::*;

    #[test]
    fn only_listed_metrics_are_taken_and_of_the_same_examples() {
        let settings = Settings {
            command: String::new(),
            data: Paths::One("data".into()),
            better: [("auc".to_owned(), Direction::Higher)].into(),
            code: None,
            timeout: 1,
        };
        let measured = |auc: f64, n: u64| {
            let values: BTreeMap<String, f64> = [("auc".to_owned(), auc), ("seconds".to_owned(), 3.0)].into();
            Measurements { values, n }
        };
        let row = compare(&settings, &measured(0.83, 412), Some(&measured(0.81, 412))).unwrap();
        let (better, base) = ("higher".to_owned(), Some(0.81));
        assert_eq!(row, [Measured { name: "auc".into(), better, value: 0.83, base }]);
        assert_eq!(compare(&settings, &measured(0.83, 412), None).unwrap()[0].base, None);
        let others = compare(&settings, &measured(0.83, 412), Some(&measured(0.81, 411))).unwrap_err();
        assert!(others.message.contains("412") && others.message.contains("411"), "{}", others.message);
        let nothing = Measurements { values: BTreeMap::new(), n: 412 };
        assert!(compare(&settings, &nothing, None).unwrap_err().message.contains("`auc`"));
    }
}
