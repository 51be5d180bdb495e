//! The policy as a file that people edit: what `flair policy show --toml` writes and `flair policy propose FILE` reads.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use flair_protocol::policy::{Every, Membership, Policy};
use flair_protocol::state::State;
use toml::{Table, Value};

use super::{name_of, people};
use crate::api::types::{PolicyProposal, Problem, Protection};

const KEYS: [&str; 8] =
    ["threshold", "delegates", "membership", "aggregation", "settings", "branches", "cut", "reason"];
const BRANCH: [&str; 2] = ["accepts", "require"];
/// Longest file that is read, in bytes: far more than any policy takes.
const LONGEST: usize = 1 << 20;

/// The policy in force, with everything that a proposal can change.
pub(super) fn write(state: &State, policy: &Policy) -> String {
    let mut out = format!(
        "# The policy of {} at version {}. Change it, then: flair policy propose FILE\n# What is not in a file stays as it \
         is. `cut = [\"somebody\"]` and `reason = \"why\"` can be given too.\n\n",
        quoted(&state.name),
        state.chain.len().saturating_sub(1)
    );
    let _ = writeln!(out, "threshold = {}", policy.threshold);
    out.push_str("# All who decide: whoever is left out is let go.\ndelegates = [\n");
    for person in &policy.delegates {
        let name = name_of(state, *person).replace(char::is_control, " ");
        let _ = writeln!(out, "    {}, # {name}", quoted(&person.to_string()));
    }
    let membership = match policy.membership {
        Membership::Invite => "invite",
        Membership::Open => "open",
    };
    let rule = &policy.aggregation;
    let _ = write!(
        out,
        "]\n# invite or open\nmembership = \"{membership}\"\naggregation = {}\n",
        quoted(&rule.rule)
    );
    let every = match rule.every {
        Every::Auto => "\"auto\"".to_owned(),
        Every::Persons(count) => count.to_string(),
    };
    let _ = write!(out, "\n[settings]\nevery = {every}\nmax_staleness = {}\n", rule.max_staleness);
    for (name, value) in &rule.settings {
        let _ = writeln!(out, "{name} = {}", quoted(value));
    }
    for rule in &policy.branches {
        let Some(branch) = state.branches.get(&rule.branch).filter(|branch| !branch.deleted) else {
            continue;
        };
        let require: Vec<String> = rule.require.iter().map(|one| quoted(&one.to_string())).collect();
        let _ = write!(
            out,
            "\n# `accepts = 0` and `require = []` end the protection.\n[branches.{}]\naccepts = {}\nrequire = [{}]\n",
            quoted(&branch.name),
            rule.accepts,
            require.join(", ")
        );
    }
    out
}

/// What a file asks for that the request does not say itself.
///
/// # Errors
/// Text that is no TOML, a key that is not known, a value of another kind.
pub(super) fn fill(
    request: &mut PolicyProposal,
    text: &str,
    state: &State,
    current: &Policy,
) -> Result<(), Problem> {
    if text.len() > LONGEST {
        return Err(Problem::invalid(format!("the policy's file has more than {LONGEST} bytes")));
    }
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        Problem::invalid(format!("the policy's file can't be read: {}", error.to_string().trim_end()))
    })?;
    known(&table, &KEYS, "")?;
    if let Some(value) = table.get("threshold") {
        let threshold = count(value, "threshold")?;
        request.threshold = request.threshold.or(Some(threshold));
    }
    if let Some(value) = table.get("delegates") {
        let listed = list(value, "delegates")?;
        let named = listed.iter().map(|text| people::find(state, text)).collect::<Result<Vec<_>, _>>()?;
        let gone = current.delegates.iter().filter(|delegate| !named.contains(delegate));
        request.remove.extend(gone.map(ToString::to_string));
        let come = named.iter().filter(|person| !current.delegates.contains(person));
        request.add.extend(come.map(ToString::to_string));
    }
    if let Some(value) = table.get("cut") {
        request.cut.extend(list(value, "cut")?);
    }
    for (key, own) in [("membership", &mut request.membership), ("aggregation", &mut request.aggregation)] {
        if let Some(value) = table.get(key).filter(|_| own.is_none()) {
            *own = Some(word(value, key)?);
        }
    }
    if let Some(value) = table.get("reason").filter(|_| request.reason.is_empty()) {
        request.reason = word(value, "reason")?;
    }
    if let Some(value) = table.get("settings") {
        let mut listed = BTreeMap::new();
        for (name, value) in inner(value, "settings")? {
            let text = match value {
                Value::Integer(number) => number.to_string(),
                Value::Float(number) => number.to_string(),
                value => word(value, &format!("settings.{name}"))?,
            };
            listed.insert(name.clone(), text);
        }
        // A rule with the settings it has is no change, though some that it has not stated were defaults.
        let now = &current.aggregation;
        let same = request.aggregation.as_ref().is_none_or(|rule| *rule == now.rule);
        let own = |name: &String| !matches!(name.as_str(), "every" | "max_staleness");
        if same
            && listed
                .iter()
                .filter(|(name, _)| own(name))
                .all(|(name, text)| now.settings.get(name) == Some(text))
        {
            listed.retain(|name, _| !own(name));
        }
        for (name, text) in listed {
            request.settings.entry(name).or_insert(text);
        }
    }
    if let Some(value) = table.get("branches") {
        let mut protect = BTreeMap::new();
        for (name, value) in inner(value, "branches")? {
            let key = format!("branches.{name}");
            let rule = inner(value, &key)?;
            known(rule, &BRANCH, &format!("{key}."))?;
            let accepts =
                rule.get("accepts").map_or(Ok(0), |value| count(value, &format!("{key}.accepts")))?;
            let require =
                rule.get("require").map_or(Ok(Vec::new()), |value| list(value, &format!("{key}.require")))?;
            protect.insert(name.clone(), Protection { accepts, require });
        }
        protect.append(&mut request.protect);
        request.protect = protect;
    }
    Ok(())
}

/// Refuses a key that nothing has, naming the nearest that something has.
fn known(table: &Table, keys: &[&str], before: &str) -> Result<(), Problem> {
    let Some(key) = table.keys().find(|key| !keys.contains(&key.as_str())) else { return Ok(()) };
    let shown: String = key.chars().take(40).collect();
    let near = keys.iter().min_by_key(|known| distance(known, &shown)).copied().unwrap_or_default();
    Err(Problem::invalid(format!("a policy has no `{before}{shown}`"))
        .help(format!("is it `{before}{near}`? There are {}", keys.join(", "))))
}

/// How many characters to insert, take out or replace to make one text of the other (Levenshtein 1966).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (line, one) in a.chars().enumerate() {
        let mut left = line + 1;
        let mut corner = line;
        for (place, other) in b.iter().enumerate() {
            let above = row.get(place + 1).copied().unwrap_or(usize::MAX - 1);
            let next = (corner + usize::from(one != *other)).min(left + 1).min(above + 1);
            corner = above;
            if let Some(cell) = row.get_mut(place) {
                *cell = left;
            }
            left = next;
        }
        if let Some(cell) = row.last_mut() {
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

fn wrong(key: &str, value: &Value, expected: &str) -> Problem {
    let shown: String = value.to_string().chars().take(40).collect();
    Problem::invalid(format!("`{key} = {shown}` in the policy's file is not {expected}"))
}

fn count(value: &Value, key: &str) -> Result<u32, Problem> {
    let number = value.as_integer().and_then(|number| u32::try_from(number).ok());
    number.ok_or_else(|| wrong(key, value, "a whole number"))
}

fn word(value: &Value, key: &str) -> Result<String, Problem> {
    value.as_str().map(str::to_owned).ok_or_else(|| wrong(key, value, "a text in quotes"))
}

fn list(value: &Value, key: &str) -> Result<Vec<String>, Problem> {
    let texts =
        value.as_array().and_then(|all| all.iter().map(|one| one.as_str().map(str::to_owned)).collect());
    texts.ok_or_else(|| wrong(key, value, "a list of texts in quotes"))
}

fn inner<'a>(value: &'a Value, key: &str) -> Result<&'a Table, Problem> {
    value.as_table().ok_or_else(|| wrong(key, value, "a table"))
}

/// A text in quotes on one line, which may be a key too: TOML reads what JSON escapes.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_named() {
        for (given, near) in
            [("treshold", "threshold"), ("delegate", "delegates"), ("rule", "cut"), ("branch", "branches")]
        {
            let table: Table = format!("{given} = 1").parse().unwrap();
            let problem = known(&table, &KEYS, "").unwrap_err();
            assert!(problem.message.contains(given), "{problem}");
            let help = format!("{problem:?}");
            assert!(near == "cut" || help.contains(&format!("is it `{near}`?")), "{help}");
        }
    }

    #[test]
    fn a_distance_counts_changes() {
        for (a, b, far) in
            [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (far, far), "{a} {b}");
        }
    }

    #[test]
    fn texts_are_quoted_so_that_toml_reads_them_back() {
        for text in ["main", "a \"b\" # c", "line\nbreak", "ε = ½"] {
            let table: Table =
                format!("x = {}\n[branches.{}]\ny = 1", quoted(text), quoted(text)).parse().unwrap();
            assert_eq!(table["x"].as_str(), Some(text));
            assert!(table["branches"].as_table().unwrap().contains_key(text));
        }
    }
}
