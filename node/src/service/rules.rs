//! How updates are aggregated, as people set it and as it is told to them.

use std::collections::BTreeMap;

use flair_aggregation::policy::{Policy, RULES};
use flair_protocol::policy::{Aggregation, Every};

use crate::api::types::Problem;
use crate::worker::compute::rule;

/// Settings of every policy that are no rule's: acceptance depends on them.
const EVERY: &str = "every";
const MAX_STALENESS: &str = "max_staleness";

/// What `base` becomes with another rule, other settings, or both.
///
/// With the same rule and the same optimiser, settings that are not given stay as they are; else they are the rule's
/// defaults, because a step size that fits one is wrong for another. The result holds every setting, so that nothing
/// about it depends on a program's defaults. `every` (a number, or `auto`) and `max_staleness` are taken among the
/// settings too.
///
/// # Errors
/// A rule or setting that is not known, a value out of its range: what is known is named.
pub fn aggregation(
    base: &Aggregation,
    rule: Option<&str>,
    set: &BTreeMap<String, String>,
) -> Result<Aggregation, Problem> {
    let mut next = base.clone();
    let mut own = set.clone();
    let wrong = |name: &str, value: &str, expected: &str| {
        Problem::invalid(format!("'{value}' is not a value of the setting '{name}': give {expected}"))
    };
    if let Some(text) = own.remove(EVERY) {
        next.every = match text.parse::<u32>() {
            Ok(persons) if persons > 0 => Every::Persons(persons),
            _ if text == "auto" => Every::Auto,
            _ => return Err(wrong(EVERY, &text, "a number of persons of at least 1, or 'auto'")),
        };
    }
    if let Some(text) = own.remove(MAX_STALENESS) {
        let expected = "a whole number of aggregates, such as 20";
        next.max_staleness = text.parse().map_err(|_| wrong(MAX_STALENESS, &text, expected))?;
    }
    let rule = rule.unwrap_or(&base.rule);
    let server = |settings: &BTreeMap<String, String>| settings.get("server").cloned();
    let before = server(&base.settings).unwrap_or_else(|| "none".to_owned());
    let stays = rule == base.rule && server(&own).is_none_or(|server| server == before);
    if stays && own.is_empty() {
        return Ok(next);
    }
    let mut settings = if stays { base.settings.clone() } else { BTreeMap::new() };
    settings.extend(own);
    let policy = Policy::parse(rule, &settings).map_err(|error| Problem::invalid(error.to_string()))?;
    let (rule, settings) = (policy.rule().to_owned(), policy.settings().clone());
    Ok(Aggregation { rule, settings, ..next })
}

/// How many persons an aggregate needs, what the rule does, and what is dropped, a sentence or some each.
///
/// # Errors
/// A rule or setting this build does not know.
pub fn words(aggregation: &Aggregation) -> Result<Vec<String>, Problem> {
    let policy = rule(aggregation)?;
    let mut every = match aggregation.every {
        Every::Auto => {
            "An aggregate needs three quarters of the persons who were active in the last 5 aggregates, at \
                        least 2 where there are 2."
                .to_owned()
        }
        Every::Persons(1) => "An aggregate needs 1 person.".to_owned(),
        Every::Persons(count) => format!("An aggregate needs {count} persons."),
    };
    if let Every::Persons(count) = aggregation.every
        && let Some(most) = policy.withstands(count as usize)
    {
        let holds = match most {
            0 => "That is too few to withstand anybody dishonest.".to_owned(),
            most => format!("With so many, it withstands {most} who are dishonest."),
        };
        every = format!("{every} {holds}");
    }
    if policy.rule() == "fedasync" && aggregation.every != Every::Persons(1) {
        every.push_str(" FedAsync is made for 1.");
    }
    Ok(vec![
        every,
        policy.explain(),
        format!("Updates more than {} aggregates behind are dropped.", aggregation.max_staleness),
    ])
}

/// The rules, a line each: name and what it is for.
pub fn list() -> String {
    let width = RULES.iter().map(|entry| entry.name.len()).max().unwrap_or(0);
    let lines = RULES.iter().map(|entry| format!("{:width$}  {}", entry.name, entry.summary));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use flair_protocol::key::SecretKey;

    fn standard() -> Aggregation {
        flair_protocol::policy::Policy::standard(SecretKey::from_bytes(&[7; 32]).public()).aggregation
    }

    fn set(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn nothing_asked_changes_nothing() {
        assert_eq!(aggregation(&standard(), None, &set(&[])).unwrap(), standard());
        assert_eq!(aggregation(&standard(), Some("fedbuff"), &set(&[])).unwrap(), standard());
    }

    #[test]
    fn what_is_not_set_stays_unless_the_rule_or_its_optimiser_changes() {
        let base =
            aggregation(&standard(), None, &set(&[("staleness", "constant"), ("every", "4")])).unwrap();
        assert_eq!((base.every, base.settings["staleness"].as_str()), (Every::Persons(4), "constant"));
        let next = aggregation(&base, None, &set(&[("eta", "0.5"), ("max_staleness", "7")])).unwrap();
        assert_eq!((next.settings["staleness"].as_str(), next.settings["eta"].as_str()), ("constant", "0.5"));
        assert_eq!((next.every, next.max_staleness), (Every::Persons(4), 7));
        // A step of 1 would be far too much for Adam.
        let adam = aggregation(&base, None, &set(&[("server", "adam")])).unwrap();
        assert_eq!(adam.settings["eta"], "0.01");
        let again = aggregation(&adam, None, &set(&[("beta1", "0.5")])).unwrap();
        assert_eq!((again.settings["server"].as_str(), again.settings["beta1"].as_str()), ("adam", "0.5"));
        let krum = aggregation(&adam, Some("krum"), &set(&[("dishonest", "1")])).unwrap();
        assert_eq!((krum.rule.as_str(), krum.settings["eta"].as_str()), ("krum", "1"));
        assert_eq!(krum.settings["staleness"], "polynomial:0.5");
        assert!(krum.settings.contains_key("clip") && !krum.settings.contains_key("cap"));
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        let wrong = |rule, pairs: &[(&str, &str)]| {
            aggregation(&standard(), rule, &set(pairs)).unwrap_err().to_string()
        };
        assert!(wrong(Some("fedprox"), &[]).contains("how each site trains"));
        assert!(wrong(None, &[("every", "0")]).contains("at least 1, or 'auto'"));
        assert!(wrong(None, &[("max_staleness", "-1")]).contains("whole number"));
        assert!(wrong(Some("krum"), &[("cap", "2")]).contains("krum has no setting 'cap'"));
    }

    #[test]
    fn too_few_persons_for_a_robust_rule_are_warned_of() {
        let mut krum = aggregation(&standard(), Some("krum"), &set(&[("every", "4")])).unwrap();
        assert!(words(&krum).unwrap()[0].contains("too few to withstand anybody"));
        krum.every = Every::Persons(10);
        assert!(words(&krum).unwrap()[0].contains("withstands 3"));
        assert_eq!(list().lines().count(), RULES.len());
    }
}
