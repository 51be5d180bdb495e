//! Audits: in words, and as a page.

use std::fmt::Write as _;

use flair_node::api::types::{Audit, AuditStep};

use super::history::metric;
use super::together::approval;
use super::{Rows, bytes, count, evaluation, review, short, time};

/// What every report ends with.
const DISCLAIMER: &str = "Flair is early-stage software for research and development, and has not been audited itself. This \
                          report says that records and sums hold, not that the model is good, safe or lawful. It is not \
                          for clinical decisions, nor any other decision about people. Examples, metrics, privacy claims \
                          and evaluations are what people say.";

/// Every doubt, with the commit that it is about.
pub(crate) fn doubts(answer: &Audit) -> Vec<String> {
    let of = |step: &AuditStep| {
        let name = short(&step.entry.commit).to_owned();
        step.doubts.clone().into_iter().map(move |doubt| format!("{name}: {doubt}"))
    };
    answer.doubts.iter().cloned().chain(answer.steps.iter().flat_map(of)).collect()
}

fn verdict(answer: &Audit) -> String {
    let doubts = doubts(answer).len() as u64;
    if doubts == 0 { "Everything holds".to_owned() } else { format!("{} ", count(doubts, "doubt", "doubts")) }
}

/// What was checked, in a sentence.
fn scope(answer: &Audit) -> String {
    format!(
        "{} behind the model, {}, {} read, in {:.1} s",
        count(answer.steps.len() as u64, "commit", "commits"),
        count(answer.operations, "signature", "signatures"),
        bytes(answer.bytes),
        answer.millis as f64 / 1000.0
    )
}

pub(crate) fn audited(answer: &Audit) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "Audit of {} ({}, {})", short(&answer.commit), answer.branch, answer.name);
    let _ = writeln!(out, "Model {}", answer.model.as_deref().unwrap_or("not here"));
    let _ = writeln!(out, "Checked {}\n", scope(answer));
    let mut rows = Rows::new(&["commit", "kind", "by", "checked", "holds"]);
    for step in &answer.steps {
        rows.row([
            short(&step.entry.commit).into(),
            step.entry.kind.clone(),
            step.entry.name.clone(),
            step.checked.clone(),
            if step.doubts.is_empty() { "yes" } else { "NO" }.into(),
        ]);
    }
    let _ = writeln!(out, "{}\n", rows.text());
    let mut rows = Rows::new(&["person", "role now", "updates", "key"]).right(&[2]);
    for person in &answer.people {
        rows.row([
            person.name.clone(),
            person.role.clone(),
            person.updates.to_string(),
            person.person.clone(),
        ]);
    }
    let _ = writeln!(out, "{}\n", rows.text());
    for person in &answer.people {
        if let Some(by) = &person.approval {
            let _ = writeln!(out, "Approval {}: {}", person.name, approval(by));
        }
    }
    for policy in &answer.policies {
        // The first one needs nobody's approval: the repository begins with it.
        let by = match policy.approvals.as_slice() {
            [] => "with which the repository began".to_owned(),
            people => format!("approved by {}", people.join(", ")),
        };
        let _ = writeln!(out, "Policy {} version {}, {by}", short(&policy.revision), policy.version);
    }
    for step in &answer.steps {
        let about = short(&step.entry.commit);
        for by in &step.reviews {
            let _ = writeln!(out, "Review {about} {}", review::said(by));
        }
        for by in evaluation::last(&step.entry.evaluations) {
            let _ = writeln!(out, "Evaluation {about} {} ({})", evaluation::line(by), by.set);
        }
        if let Some(claim) = &step.privacy {
            let _ = writeln!(out, "Privacy {about} {claim}, as its author says");
        }
    }
    for licence in &answer.licences {
        let _ = writeln!(out, "Licence {licence}");
    }
    for note in &answer.notes {
        let _ = writeln!(out, "Note {note}");
    }
    for doubt in doubts(answer) {
        let _ = writeln!(out, "DOUBT {doubt}");
    }
    let _ = writeln!(out, "\n{}. {DISCLAIMER}", verdict(answer).trim());
    out
}

/// The report as a page that stands alone.
pub(crate) fn page(answer: &Audit) -> String {
    let mut out = String::new();
    let title = format!("Audit of model {}, {}", short(&answer.commit), answer.name);
    let doubts = doubts(answer);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{title}</title><style>body{{font:16px/1.5 system-ui,sans-serif;\
         max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}}table{{border-collapse:collapse;width:100%;\
         margin:1rem 0}}th,td{{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #ccc}}\
         code{{overflow-wrap:anywhere}}.bad{{color:#a00;font-weight:bold}}.good{{color:#060;font-weight:bold}}\
         @media print{{body{{margin:0}}}}</style></head><body><h1>{title}</h1>",
        title = escaped(&title)
    );
    let class = if doubts.is_empty() { "good" } else { "bad" };
    let _ = write!(out, "<p class=\"{class}\">{}</p>", escaped(verdict(answer).trim()));
    if !doubts.is_empty() {
        out.push_str("<ul class=\"bad\">");
        cells(&mut out, "li", doubts.iter().map(String::as_str));
        out.push_str("</ul>");
    }
    let _ = write!(out, "<p>{}</p><h2>What was checked</h2>", escaped(DISCLAIMER));
    table(
        &mut out,
        &[],
        [
            vec!["Repository".into(), format!("{} ({})", answer.name, answer.repo)],
            vec!["Branch".into(), answer.branch.clone()],
            vec!["Commit".into(), answer.commit.clone()],
            vec!["Model".into(), answer.model.clone().unwrap_or_else(|| "not here".into())],
            vec!["When, and by".into(), format!("{} UTC, Flair {}", time(answer.time), answer.version)],
            vec!["Extent".into(), scope(answer)],
            vec!["Licences".into(), answer.licences.join("; ")],
            vec!["Notes".into(), answer.notes.join("; ")],
        ],
    );
    out.push_str(
        "<p>Each signature was checked; whether each person was allowed to do what they did, when they did it; each \
         blob against its hash; and each aggregate was computed again from the updates it was made of.</p>\
         <h2>What the model is made of</h2>",
    );
    let rows = answer.steps.iter().map(|step| {
        let entry = &step.entry;
        let metrics: Vec<String> = entry.metrics.iter().map(metric).collect();
        let said = [entry.message.clone(), metrics.join(" ")].join(" ");
        let examples = if entry.examples > 0 { entry.examples.to_string() } else { String::new() };
        let found = if step.doubts.is_empty() { step.checked.clone() } else { step.doubts.join("; ") };
        vec![
            entry.commit.clone(),
            entry.kind.clone(),
            entry.name.clone(),
            time(entry.time),
            said.trim().to_owned(),
            examples,
            step.privacy.clone().unwrap_or_default(),
            found,
        ]
    });
    let headings =
        ["Commit", "Kind", "By", "When (UTC)", "As they say", "Examples", "Privacy claim", "Found"];
    table(&mut out, &headings, rows);
    out.push_str("<h2>People</h2>");
    let rows = answer.people.iter().map(|person| {
        let allowed = person.approval.as_ref().map_or_else(String::new, approval);
        let updates = person.updates.to_string();
        vec![person.name.clone(), person.role.clone(), updates, allowed, person.person.clone()]
    });
    table(&mut out, &["Name", "Role now", "Updates", "Approval", "Key"], rows);
    out.push_str("<h2>Policies</h2>");
    let rows = answer.policies.iter().map(|policy| {
        let approvals = policy.approvals.join(", ");
        vec![
            policy.version.to_string(),
            policy.revision.clone(),
            approvals,
            policy.reason.clone(),
            policy.changes.join(" "),
        ]
    });
    table(&mut out, &["Version", "Revision", "Approved by", "Why", "What it changed"], rows);
    out.push_str("<h2>Reviews and evaluations</h2>");
    let rows = answer.steps.iter().flat_map(|step| {
        let commit = step.entry.commit.clone();
        let reviews = step.reviews.iter().map(|by| vec!["review".into(), review::said(by), time(by.time)]);
        let evaluations = evaluation::last(&step.entry.evaluations).map(|by| {
            let text = format!("{}, on {}, data {}", evaluation::line(by), by.set, by.data);
            vec!["evaluation".into(), text, time(by.time)]
        });
        reviews.chain(evaluations).map(move |row| [vec![commit.clone()], row].concat())
    });
    table(&mut out, &["Commit", "What", "Who says what", "When (UTC)"], rows);
    out.push_str("</body></html>\n");
    out
}

fn table(out: &mut String, headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    out.push_str("<table>");
    if !headings.is_empty() {
        out.push_str("<tr>");
        cells(out, "th", headings.iter().copied());
        out.push_str("</tr>");
    }
    for row in rows {
        out.push_str("<tr>");
        cells(out, "td", row.iter().map(String::as_str));
        out.push_str("</tr>");
    }
    out.push_str("</table>");
}

fn cells<'a>(out: &mut String, tag: &str, texts: impl Iterator<Item = &'a str>) {
    for text in texts {
        let _ = write!(out, "<{tag}>{}</{tag}>", escaped(text));
    }
}

/// Text that a page shows as it is, whoever wrote it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for one in text.chars() {
        match one {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_cannot_become_part_of_the_page() {
        assert_eq!(escaped("<script>\"&'"), "&lt;script&gt;&quot;&amp;&#39;");
        let mut answer = Audit {
            repo: "r".into(),
            name: "<script>alert(1)</script>".into(),
            branch: String::new(),
            commit: "c".into(),
            model: None,
            time: 0,
            version: String::new(),
            operations: 1,
            bytes: 1,
            steps: Vec::new(),
            people: Vec::new(),
            policies: Vec::new(),
            licences: vec!["<img src=x>".into()],
            doubts: Vec::new(),
            notes: Vec::new(),
            millis: 1,
        };
        let made = page(&answer);
        assert!(!made.contains("<script") && !made.contains("<img") && made.contains("&lt;script"));
        assert!(made.contains("Everything holds") && made.contains("not for clinical decisions"), "{made}");
        assert!(!made.contains("http"), "it stands alone");
        answer.doubts.push("blob is damaged".into());
        assert!(page(&answer).contains("1 doubt") && audited(&answer).contains("DOUBT blob is damaged"));
    }
}
