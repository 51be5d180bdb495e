//! The policy: what holds, and how the delegates change it.

use std::collections::BTreeSet;

use flair_protocol::graph::Graph;
use flair_protocol::id::{BranchId, CommitId, OperationId};
use flair_protocol::key::PersonId;
use flair_protocol::operation::Body;
use flair_protocol::operation::body::{Approve, Cut, Resolve, Revision, Stated};
use flair_protocol::policy::{
    BranchRule, Membership, Policy, Requirement, RequirementError, Role, Visibility,
};
use flair_protocol::state::{RevisionInfo, RevisionStatus, State, StepStatus, UpdateStatus};

use super::{Service, document, name_of, people, rules};
use crate::api::types::{
    At, Delegate, Done, PolicyChoice, PolicyProposal, PolicyRevision, PolicyShown, Problem,
};
use crate::repository::Extras;

impl Service {
    /// The policy in force, and what is proposed.
    ///
    /// # Errors
    /// No such repository.
    pub async fn policy(&self, request: At) -> Result<PolicyShown, Problem> {
        let (repository, _) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let policy = in_force(&state)?;
        let delegate = |person: &PersonId| Delegate {
            person: person.to_string(),
            name: name_of(&state, *person),
            me: *person == self.hub.me(),
        };
        let mut revisions: Vec<(&OperationId, &RevisionInfo)> =
            state.revisions.iter().filter(|(id, _)| **id != state.revision()).collect();
        revisions.sort_by_key(|(id, info)| (std::cmp::Reverse(info.version), **id));
        Ok(PolicyShown {
            revision: state.revision().to_string(),
            version: state.chain.len().saturating_sub(1) as u64,
            delegates: policy.delegates.iter().map(delegate).collect(),
            threshold: policy.threshold,
            survives: policy.survives(),
            visibility: if state.private() { "private".into() } else { "public".into() },
            membership: match policy.membership {
                Membership::Invite => "invite".into(),
                Membership::Open => "open".into(),
            },
            rule: policy.aggregation.rule.clone(),
            settings: policy.aggregation.settings.clone(),
            words: words(Some(&state), policy)?,
            document: document::write(&state, policy),
            revisions: revisions.into_iter().map(|(id, info)| view(&state, *id, info)).collect(),
            frozen: !state.frozen.is_empty(),
        })
    }

    /// Proposes a change, and approves of it: with a threshold of 1 it is in force at once.
    ///
    /// # Errors
    /// Not a delegate, a change that can't be, nothing changed, a full disk.
    pub async fn policy_propose(&self, mut request: PolicyProposal) -> Result<Done, Problem> {
        let (repository, _) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let current = in_force(&state)?;
        if !current.delegates.contains(&self.hub.me()) {
            return Err(Problem::denied("only a delegate can propose a change of the policy")
                .help("`flair policy show` names the delegates"));
        }
        if !state.frozen.is_empty() {
            return Err(Problem::conflict("two approved revisions of the policy contradict each other")
                .help("choose one first: `flair policy resolve`"));
        }
        if let Some(text) = request.document.take() {
            document::fill(&mut request, &text, &state, current)?;
        }
        let policy = changed(&state, current, &request)?;
        let cut = everybody(&state, &request.cut)?;
        let cuts = repository
            .graph(|graph| {
                cut.iter().map(|person| Cut { person: *person, keep: all(graph) }).collect::<Vec<_>>()
            })
            .await;
        if policy == *current && cuts.is_empty() {
            return Err(Problem::invalid("the proposal changes nothing")
                .help("say what is to change: `flair policy propose --help`"));
        }
        let needed = current.threshold;
        let mut out = changes(&state, current, &policy, &cut);
        if (&policy.delegates, policy.threshold) != (&current.delegates, current.threshold) {
            out.extend(standing(&policy));
        }
        if request.dry_run {
            out.push("Nothing was done.".into());
            return Ok(Done { words: out });
        }
        let (parent, version) = (state.revision(), state.chain.len() as u64);
        let policy = Stated::Known(policy);
        let body =
            Body::Revision(Box::new(Revision { parent, version, policy, cuts, reason: request.reason }));
        let id = self.hub.publish(&repository, body, Extras::default()).await?;
        let state = repository.state().await;
        out.push(outcome(&state, id, needed));
        Ok(Done { words: out })
    }

    /// Approves of a proposed revision.
    ///
    /// # Errors
    /// No such proposal, one that contradicts what this person approved of before, not a delegate.
    pub async fn policy_approve(&self, request: PolicyChoice) -> Result<Done, Problem> {
        let (repository, _) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let me = self.hub.me();
        let open = |id: &OperationId| state.revision_status(*id) == Some(RevisionStatus::Proposed);
        let open: Vec<OperationId> = state.revisions.keys().copied().filter(open).collect();
        let id = choose(request.revision.as_deref(), &open, "proposed revision")?;
        let info = &state.revisions[&id];
        if info.approvals.contains(&me) {
            return Err(Problem::conflict(format!("you approved of {} already", id.short())));
        }
        // Whoever approves of two revisions of one policy can bring both into force, which freezes it.
        let other = open.iter().find(|other| **other != id && state.revisions[other].approvals.contains(&me));
        if let Some(other) = other {
            return Err(Problem::conflict(format!(
                "you approved of {}, which changes the same policy: if both got enough approvals, nothing could change \
                 until the delegates agree",
                other.short()
            ))
            .help("propose what both say in one, once one of them is in force"));
        }
        let mut out = changes(&state, in_force(&state)?, &info.policy, &cut_by(info));
        let needed = in_force(&state)?.threshold;
        self.hub.publish(&repository, Body::Approve(Approve { revision: id }), Extras::default()).await?;
        let state = repository.state().await;
        out.push(outcome(&state, id, needed));
        Ok(Done { words: out })
    }

    /// Chooses between approved revisions that contradict each other.
    ///
    /// # Errors
    /// Nothing to choose, no such revision, not a delegate.
    pub async fn policy_resolve(&self, request: PolicyChoice) -> Result<Done, Problem> {
        let (repository, _) = self.locate(&request.place).await?;
        let state = repository.state().await;
        if state.frozen.is_empty() {
            return Err(Problem::conflict("no revisions of the policy contradict each other"));
        }
        if request.revision.is_none() {
            let mut problem = Problem::invalid("say which revision is to stand");
            let named = state.frozen.iter().map(OperationId::short).collect::<Vec<_>>();
            problem = problem.help(format!("`flair policy resolve` with one of {}", named.join(", ")));
            return Err(problem);
        }
        let id = choose(request.revision.as_deref(), &state.frozen, "contradicting revision")?;
        let me = self.hub.me();
        // A round later than any other resolution that is here, so that a stalemate can be left behind.
        let frozen = state.frozen.clone();
        let round = repository.graph(|graph| round(graph, &frozen, me)).await;
        let body = Body::Resolve(Resolve { revision: id, round });
        self.hub.publish(&repository, body, Extras::default()).await?;
        let state = repository.state().await;
        let words = match state.revision_status(id) {
            Some(RevisionStatus::InForce) => format!("Revision {} is in force.", id.short()),
            _ => format!(
                "You chose {}; it takes {} delegates to choose it.",
                id.short(),
                in_force(&state)?.threshold
            ),
        };
        Ok(Done { words: vec![words] })
    }

    /// What a revision says, in words; the one in force where none is named.
    ///
    /// # Errors
    /// No such revision.
    pub async fn policy_explain(&self, request: PolicyChoice) -> Result<Done, Problem> {
        let (repository, _) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let known: Vec<OperationId> = state.revisions.keys().copied().collect();
        let id = match &request.revision {
            None => state.revision(),
            Some(_) => choose(request.revision.as_deref(), &known, "revision")?,
        };
        let Some(info) = state.revisions.get(&id) else {
            return Err(Problem::missing("no policy is here yet"));
        };
        let mut out = words(Some(&state), &info.policy)?;
        out.extend(self.lora_words(&repository, &state).await);
        if let Some(parent) = info.parent.and_then(|parent| state.revisions.get(&parent)) {
            out.push(format!("Compared with version {}:", parent.version));
            out.extend(changes(&state, &parent.policy, &info.policy, &cut_by(info)));
        }
        Ok(Done { words: out })
    }
}

fn in_force(state: &State) -> Result<&Policy, Problem> {
    state.policy.as_ref().ok_or_else(|| Problem::missing("the repository's policy is not here yet"))
}

/// The round to resolve in: the highest that others voted in, or one more than this person's own last.
fn round(graph: &Graph, among: &[OperationId], me: PersonId) -> u64 {
    let rounds = graph.iter().filter_map(|operation| match operation.body() {
        Body::Resolve(resolve) if among.contains(&resolve.revision) => {
            let own = u64::from(operation.author() == me);
            Some(resolve.round.saturating_add(own))
        }
        _ => None,
    });
    rounds.max().unwrap_or(0)
}

/// Everything that is here, as a frontier.
fn all(graph: &Graph) -> Vec<OperationId> {
    let mut heads: Vec<_> = graph
        .heads()
        .filter_map(|id| graph.get(id))
        .map(flair_protocol::operation::Operation::order)
        .collect();
    heads.sort_unstable_by(|a, b| b.cmp(a));
    let mut keep: Vec<OperationId> =
        heads.into_iter().take(flair_protocol::limits::DEPS).map(|(_, id)| id).collect();
    keep.sort_unstable();
    keep
}

fn cut_by(info: &RevisionInfo) -> Vec<PersonId> {
    info.cuts.iter().map(|cut| cut.person).collect()
}

fn everybody(state: &State, named: &[String]) -> Result<Vec<PersonId>, Problem> {
    let mut all = named.iter().map(|text| people::find(state, text)).collect::<Result<Vec<_>, _>>()?;
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// The policy that a proposal asks for.
fn changed(state: &State, current: &Policy, request: &PolicyProposal) -> Result<Policy, Problem> {
    let mut policy = current.clone();
    for person in everybody(state, &request.remove)?.into_iter().chain(everybody(state, &request.cut)?) {
        policy.delegates.retain(|delegate| *delegate != person);
    }
    policy.delegates.extend(everybody(state, &request.add)?);
    policy.delegates.sort_unstable();
    policy.delegates.dedup();
    if let Some(threshold) = request.threshold {
        policy.threshold = threshold;
    } else if policy.threshold as usize > policy.delegates.len() {
        return Err(Problem::invalid(format!(
            "{} delegates would be left, and the policy asks for {} of them",
            policy.delegates.len(),
            policy.threshold
        ))
        .help("give a lower `--threshold` too"));
    }
    match request.membership.as_deref() {
        None => {}
        Some("open") if state.private() => return Err(not_open()),
        Some("open") => policy.membership = Membership::Open,
        Some("invite") => policy.membership = Membership::Invite,
        Some(other) => {
            return Err(Problem::invalid(format!("`{other}` is no way to become a member"))
                .help("`--membership` is invite or open"));
        }
    }
    policy.aggregation =
        rules::aggregation(&policy.aggregation, request.aggregation.as_deref(), &request.settings)?;
    for (name, protection) in &request.protect {
        let branch = super::find_branch(state, Some(name), None)?.id;
        policy.branches.retain(|rule| rule.branch != branch);
        let requirement = |text: &String| {
            text.parse().map_err(|error: RequirementError| Problem::invalid(error.to_string()))
        };
        let require = protection.require.iter().map(requirement).collect::<Result<Vec<Requirement>, _>>()?;
        let accepts = protection.accepts;
        if accepts > 0 || !require.is_empty() {
            policy.branches.push(BranchRule { branch, accepts, require });
        }
    }
    policy.branches.sort_unstable_by_key(|rule| rule.branch);
    policy.validate().map_err(|error| Problem::invalid(error.to_string()))?;
    Ok(policy)
}

/// One of several revisions, by the start of its id.
fn choose(text: Option<&str>, among: &[OperationId], what: &str) -> Result<OperationId, Problem> {
    let fits = |id: &&OperationId| text.is_none_or(|text| id.to_string().starts_with(text));
    let found: Vec<&OperationId> = among.iter().filter(fits).collect();
    let named = text.map_or_else(String::new, |text| format!(" `{text}`"));
    match found.as_slice() {
        [one] => Ok(**one),
        [] => Err(Problem::missing(format!("there is no {what}{named}"))
            .help("`flair policy show` lists the revisions")),
        several => {
            Err(Problem::invalid(format!("there are {} revisions that fit", several.len())).help(format!(
                "give more of one's id: {}",
                several.iter().map(|id| id.short()).collect::<Vec<_>>().join(", ")
            )))
        }
    }
}

pub(super) fn view(state: &State, id: OperationId, info: &RevisionInfo) -> PolicyRevision {
    let parent = info.parent.and_then(|parent| state.revisions.get(&parent)).map(|parent| &parent.policy);
    PolicyRevision {
        revision: id.to_string(),
        version: info.version,
        status: state.revision_status(id).map_or("", RevisionStatus::name).to_owned(),
        by: name_of(state, info.by),
        reason: info.reason.clone(),
        approvals: info.approvals.iter().map(|person| name_of(state, *person)).collect(),
        needed: parent.map_or(1, |parent| parent.threshold),
        changes: parent.map_or_else(Vec::new, |parent| changes(state, parent, &info.policy, &cut_by(info))),
    }
}

/// What waits for somebody: updates to review, changes of the policy to approve.
pub(super) fn asked(state: &State, me: PersonId) -> Vec<String> {
    let mut out = Vec::new();
    let waiting = || state.open_branches().flat_map(|branch| &branch.waiting).copied();
    let updates = |count: usize| match count {
        1 => "1 update waits".to_owned(),
        _ => format!("{count} updates wait"),
    };
    let steps = state.open_branches().flat_map(|branch| &branch.proposed).filter(|step| {
        let waits =
            |step| matches!(state.explain_step(step), Some(StepStatus::Waiting { behind: Some(_), .. }));
        let info = state.commits.get(step);
        let acceptance = info.and_then(|info| info.acceptance.as_ref());
        let author = info.and_then(|info| info.commit.author());
        waits(**step)
            && acceptance.is_some_and(|all| !all.by.contains(&me) && (all.needed < 2 || author != Some(me)))
    });
    for step in steps.filter(|_| state.role(me) >= Some(Role::Maintainer)) {
        let kind = state.commits.get(step).map_or("step", |info| info.commit.kind());
        out.push(format!("{kind} {} waits for your accept: `flair review`", step.short()));
    }
    let lacks = |update: &CommitId| matches!(state.explain(*update), Some(UpdateStatus::Waiting { accepts, needed }) if accepts < needed);
    let reviews = waiting().filter(lacks).count();
    if reviews > 0 && state.role(me) >= Some(Role::Maintainer) {
        out.push(format!("{} for accepts: `flair review`", updates(reviews)));
    }
    let unmeasured = |update: &CommitId| {
        let Some(info) = state.commits.get(update) else { return false };
        let said = |metric: &str| {
            info.evaluations.iter().any(|by| by.person == me && by.evaluation.metric(metric).is_some())
        };
        info.commit.author() != Some(me) && state.lacking(*update).iter().any(|(one, _)| !said(&one.metric))
    };
    let evaluations = waiting().filter(unmeasured).count();
    if evaluations > 0 && state.role(me) >= Some(Role::Verifier) {
        out.push(format!("{} for evaluations: `flair evaluate --pending`", updates(evaluations)));
    }
    let decides = state.policy.as_ref().is_some_and(|policy| policy.delegates.contains(&me));
    for (id, info) in state.revisions.iter().filter(|_| decides) {
        if state.revision_status(*id) == Some(RevisionStatus::Proposed) && !info.approvals.contains(&me) {
            out.push(format!(
                "{} proposes a change of the policy ({}): `flair policy explain`, `flair policy approve`",
                name_of(state, info.by),
                id.short()
            ));
        }
    }
    out
}

/// That the policy is frozen, in words.
pub(super) fn frozen(state: &State) -> Option<String> {
    let named: Vec<String> = state.frozen.iter().map(OperationId::short).collect();
    (!named.is_empty()).then(|| {
        format!(
            "revisions {} of the policy contradict each other: it stays as it is until its delegates choose with `flair \
             policy resolve`",
            named.join(" and ")
        )
    })
}

fn outcome(state: &State, id: OperationId, needed: u32) -> String {
    let approvals = state.revisions.get(&id).map_or(0, |info| info.approvals.len());
    match state.revision_status(id) {
        Some(RevisionStatus::InForce) => {
            format!("Version {} of the policy is in force ({}).", state.chain.len() - 1, id.short())
        }
        Some(RevisionStatus::Contradicted) => format!(
            "Revision {} has enough approvals, and so has one that contradicts it: nothing changes until the delegates \
             choose with `flair policy resolve`.",
            id.short()
        ),
        _ => format!(
            "Revision {} has {approvals} of {needed} approvals: other delegates give theirs with `flair policy approve {}`.",
            id.short(),
            id.short()
        ),
    }
}

/// What differs between two policies, a line each.
fn changes(state: &State, from: &Policy, to: &Policy, cut: &[PersonId]) -> Vec<String> {
    let mut out = Vec::new();
    let names = |these: &[PersonId], those: &[PersonId]| -> Vec<String> {
        these.iter().filter(|one| !those.contains(one)).map(|one| name_of(state, *one)).collect()
    };
    let (come, go) = (names(&to.delegates, &from.delegates), names(&from.delegates, &to.delegates));
    if !come.is_empty() {
        out.push(format!("New delegates: {}.", come.join(", ")));
    }
    if !go.is_empty() {
        out.push(format!("No longer delegates: {}.", go.join(", ")));
    }
    for person in cut {
        out.push(format!(
            "{} loses every role. What they did stays as far as the proposer had seen it; everything else of theirs is \
             void. The head unlearns nothing by this.",
            name_of(state, *person)
        ));
    }
    if from.threshold != to.threshold || !come.is_empty() || !go.is_empty() {
        out.push(format!(
            "It takes {} of {} delegates to change the policy (before: {} of {}).",
            to.threshold,
            to.delegates.len(),
            from.threshold,
            from.delegates.len()
        ));
    }
    if from.membership != to.membership {
        out.push(membership(to).to_owned());
    }
    let branches: BTreeSet<BranchId> =
        from.branches.iter().chain(&to.branches).map(|rule| rule.branch).collect();
    for branch in branches {
        if from.rule(branch) != to.rule(branch) {
            out.push(protection(state, branch, to.rule(branch)));
        }
    }
    if from.aggregation != to.aggregation {
        out.extend(rules::words(&to.aggregation).unwrap_or_default());
    }
    out
}

fn protection(state: &State, branch: BranchId, rule: Option<&BranchRule>) -> String {
    let name = state.branches.get(&branch).map_or_else(|| branch.short(), |branch| branch.name.clone());
    let Some(rule) = rule else {
        return format!(
            "An update of branch {name} counts when a contributor publishes it; no review is needed."
        );
    };
    let mut needs = Vec::new();
    match rule.accepts {
        0 => {}
        1 => needs.push("1 maintainer or delegate accepted it".to_owned()),
        more => {
            needs.push(format!("{more} maintainers or delegates accepted it, its author not among them"));
        }
    }
    if !rule.require.is_empty() {
        let all: Vec<String> = rule.require.iter().map(ToString::to_string).collect();
        needs.push(format!("others measured it on data of their own: {}", all.join("; ")));
    }
    format!("An update of branch {name} is aggregated once {}.", needs.join(", and "))
}

fn membership(policy: &Policy) -> &'static str {
    match policy.membership {
        Membership::Invite => "Contributors come by an invite or by a maintainer's grant.",
        Membership::Open => "Whoever asks becomes a contributor.",
    }
}

/// What the delegates' threshold withstands.
fn standing(policy: &Policy) -> Option<String> {
    if policy.delegates.len() == 1 {
        return None;
    }
    let (n, k) = (policy.delegates.len(), policy.threshold);
    let gone = n - k as usize;
    let text = match policy.survives() {
        None => format!(
            "With {k} of {n}, two changes that contradict each other can both get enough approvals, though everybody is \
             honest: the policy then stays as it is until {k} delegates choose."
        ),
        Some(0) => format!(
            "With {k} of {n}, contradicting changes can't both be approved while every delegate is honest; 1 dishonest \
             one can bring that about."
        ),
        Some(most) => format!(
            "With {k} of {n}, contradicting changes can't both be approved as long as at most {most} of the delegates \
             {} dishonest.",
            if most == 1 { "is" } else { "are" }
        ),
    };
    let lost = match gone {
        0 => "If one loses their key, the policy can't change any more.".to_owned(),
        1 => "It can still change if one loses their key.".to_owned(),
        gone => format!("It can still change if {gone} lose their keys."),
    };
    Some(format!("{text} {lost}"))
}

/// The policy in words, a sentence or some each.
///
/// # Errors
/// A rule or setting that this build does not know.
/// Why a private repository takes nobody in who merely asks.
pub(super) fn not_open() -> Problem {
    Problem::invalid("a private repository can't take in whoever asks: nobody else may know of it")
        .help("invite people, with `flair ticket --role contributor`")
}

pub(super) fn words(state: Option<&State>, policy: &Policy) -> Result<Vec<String>, Problem> {
    let private = state.map_or(policy.visibility == Visibility::Private, State::private);
    let read = if private {
        "the repository is private, only who has a role may read"
    } else {
        "everybody may read"
    };
    let mut words = vec![match policy.delegates.len() {
        1 => format!("One delegate decides alone; {read}."),
        n => format!("{} of {n} delegates decide together; {read}.", policy.threshold),
    }];
    words.extend(standing(policy));
    words.push(membership(policy).to_owned());
    match state {
        Some(state) if !policy.branches.is_empty() => {
            words.extend(policy.branches.iter().map(|rule| protection(state, rule.branch, Some(rule))));
        }
        _ => words.push("An update counts when a contributor publishes it; no review is needed.".to_owned()),
    }
    words.extend(rules::words(&policy.aggregation)?);
    Ok(words)
}
