//! Random histories with dishonest people: every order of arrival gives one state, and a second evaluator agrees.

use flair_protocol::commit::{Change, Commit};
use flair_protocol::graph::{Graph, GraphError};
use flair_protocol::id::{BranchId, CommitId, OperationId};
use flair_protocol::operation::body::{
    Approve, Attest, BranchCreate, BranchDelete, Judgement, Refute, Resolve, Stated,
};
use flair_protocol::operation::{Body, Operation};
use flair_protocol::policy::{Bound, BranchRule, Every, Number, Requirement, Role};
use flair_protocol::state::{RevisionStatus, State, StepStatus, UpdateStatus};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use crate::naive::Verdict;
use crate::world::*;

/// Contributors from the start; 6 is a stranger until somebody grants them a role.
const MEMBERS: [u8; 4] = [2, 3, 4, 5];
/// Delegates beside the first, in every other history.
const DELEGATES: [u8; 2] = [7, 8];
/// A maintainer from the start.
const MAINTAINER: u8 = 9;
const PEOPLE: [u8; 10] = [1, 1, 2, 3, 4, 5, 6, 7, 8, MAINTAINER];
const REPLICAS: usize = 3;

/// One thing that happens; numbers choose among what there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    who: u8,
    what: u8,
    place: u8,
    pick: u16,
    cheat: u8,
}

fn step() -> impl Strategy<Value = Step> {
    let numbers = (any::<u8>(), 0u8..182, any::<u8>(), any::<u16>(), 0u8..100);
    numbers.prop_map(|(who, what, place, pick, cheat)| Step { who, what, place, pick, cheat })
}

pub(crate) fn history() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 8..64)
}

fn choose<T: Copy>(from: &[T], pick: u16) -> Option<T> {
    (!from.is_empty()).then(|| from[usize::from(pick) % from.len()])
}

/// How many histories are tried: `PROPTEST_CASES` where somebody has the time.
pub(crate) fn cases(usual: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|count| count.parse().ok()).unwrap_or(usual)
}

/// Plays a history at several replicas that talk to each other now and then; gives everything that was signed.
pub(crate) fn play(steps: &[Step]) -> World {
    let several = steps[0].cheat.is_multiple_of(2);
    let mut start = World::with(&MEMBERS, |policy| {
        policy.aggregation.max_staleness = 1;
        if several {
            policy.delegates = people(&[DELEGATE, DELEGATES[0], DELEGATES[1]]);
            policy.threshold = 1 + u32::from(steps[0].place % 2);
        }
    });
    start.grant(MAINTAINER, Role::Maintainer);
    // In a third of the histories the branch is protected from the start.
    if steps[0].pick.is_multiple_of(3) {
        let require = match steps[0].place % 4 {
            0 => vec![requirement(-0.01, 1 + u32::from(steps[0].pick % 2))],
            1 => vec![requirement(0.0, 1), absolute()],
            _ => Vec::new(),
        };
        let accepts = if require.is_empty() { 1 + u32::from(steps[0].pick % 2) } else { 0 };
        let rule = BranchRule { branch: start.branch, accepts, require };
        let shared = start.propose(DELEGATE, |policy| policy.branches = vec![rule]);
        if several {
            start.approve(DELEGATES[0], shared);
        }
    }
    let mut replicas = vec![start.clone(); REPLICAS];
    for (number, step) in steps.iter().copied().enumerate() {
        let who = PEOPLE[usize::from(step.who) % PEOPLE.len()];
        // Honest people sign at one replica; cheats anywhere, and so twice with one number.
        let home = usize::from(who) % REPLICAS;
        let cheats = match who {
            DELEGATE => step.cheat == 0,
            7 | 8 => step.cheat < 3,
            2..=4 => step.cheat < 2,
            _ => step.cheat < 30,
        };
        let at = if cheats { usize::from(step.place) % REPLICAS } else { home };
        if step.what < 15 {
            let from = replicas[usize::from(step.place) % REPLICAS].clone();
            replicas[at].merge(&from);
            continue;
        }
        let Some(body) = body(&replicas[at], who, step, number as u64) else { continue };
        let operation = if cheats && step.pick % 2 == 1 {
            // As if only the past of some earlier operation had been seen.
            let operations = replicas[at].operations();
            let after = operations[usize::from(step.pick) % operations.len()].id();
            sign_after(&replicas[at].graph, who, &[after], body)
        } else {
            let position = replicas[at].graph.position(person(who), 0);
            Operation::sign(&key(who), position, body).unwrap()
        };
        replicas[at].graph.insert(operation).unwrap();
    }
    let mut all = start;
    for replica in &replicas {
        all.merge(replica);
    }
    all
}

/// A loss of at most 0.7, whatever the base's.
fn absolute() -> Requirement {
    let value = Number::new(0.7).unwrap();
    Requirement { metric: "loss".into(), bound: Bound::AtMost, base: false, value, from: 1 }
}

/// What somebody says that they measured: of one metric, or of two; now and then compared with the wrong commit.
fn measured(state: &State, commit: CommitId, any: CommitId, pick: u16) -> Body {
    let auc = [0.49, 0.5, 0.6, 0.4][usize::from(pick) % 4];
    let loss = [0.7, 0.6, 0.5, 0.8][usize::from(pick / 4) % 4];
    let both = [("auc", auc, 0.5), ("loss", loss, 0.5)];
    let metrics = match pick % 5 {
        0 => &both[..1],
        1 => &both[1..],
        _ => &both,
    };
    let base = if pick.is_multiple_of(11) { Some(any) } else { state.commits[&commit].commit.base() };
    evaluation(commit, base, metrics)
}

/// What somebody might say here, sensible more often than not.
fn body(here: &World, who: u8, step: Step, number: u64) -> Option<Body> {
    let state = here.state();
    let branches: Vec<BranchId> = state.branches.keys().copied().collect();
    let branch = if step.pick.is_multiple_of(4) { choose(&branches, step.pick / 4)? } else { here.branch };
    let commits: Vec<CommitId> = state.commits.keys().copied().collect();
    let head = state.branches.get(&branch).and_then(|branch| branch.head).unwrap_or(here.root);
    let any = choose(&commits, step.pick)?;
    let aggregates: Vec<CommitId> =
        state.commits.iter().filter(|(_, info)| info.result.is_some()).map(|(id, _)| *id).collect();
    let someone = PEOPLE[usize::from(step.pick) % PEOPLE.len()];
    let keep: Vec<OperationId> = here.operations().iter().map(Operation::id).collect();
    Some(match step.what {
        15..=49 => {
            let mine = state.commits.iter().filter(|(_, info)| info.commit.author() == Some(person(who)));
            let mine: Vec<CommitId> = mine.map(|(id, _)| *id).collect();
            let base = match step.pick % 5 {
                0 => any,
                1 => choose(&mine, step.pick / 5).unwrap_or(head),
                2 => choose(&aggregates, step.pick / 5).unwrap_or(head),
                _ => head,
            };
            let mut made = update(who, branch, base, number);
            if let Commit::Update(one) = &mut made
                && step.cheat != 7
                && let Some(described) = state.described(base)
            {
                one.architecture = described.architecture;
            }
            publish(made, None)
        }
        50..=69 => {
            let parent = if step.pick.is_multiple_of(3) {
                choose(&aggregates, step.pick / 3).unwrap_or(head)
            } else {
                head
            };
            let pending = &state.branches.get(&branch)?.pending;
            let mut inputs: Vec<CommitId> = match step.pick % 5 {
                0 => commits
                    .iter()
                    .copied()
                    .filter(|id| matches!(*state.commits[id].commit, Commit::Update(_)))
                    .collect(),
                1 => pending.iter().copied().skip(1).collect(),
                _ => pending.clone(),
            };
            inputs.truncate(6);
            let mut world = here.clone();
            world.branch = branch;
            if inputs.is_empty() {
                return None;
            }
            let mut made = aggregate(&world, parent, &inputs);
            if step.cheat.is_multiple_of(9)
                && let Commit::Aggregate(recipe) = &mut made
            {
                let all: Vec<OperationId> = state.revisions.keys().copied().collect();
                recipe.policy = choose(&all, step.pick).unwrap_or(recipe.policy);
            }
            publish(made, Some(outcome(u64::from(step.pick.is_multiple_of(7)))))
        }
        70..=79 => {
            let commit = choose(&aggregates, step.pick).or((step.pick < 1000).then_some(any))?;
            Body::Attest(Attest { commit, result: outcome(u64::from(step.pick.is_multiple_of(5))) })
        }
        80..=83 => {
            let commit = choose(&aggregates, step.pick).or((step.pick < 1000).then_some(any))?;
            Body::Refute(Refute { commit, claimed: outcome(u64::from(step.pick % 2)), found: outcome(3) })
        }
        84..=88 => {
            let role = match step.pick % 7 {
                0 => Role::Reader,
                1 => Role::Verifier,
                2 => Role::Maintainer,
                _ => Role::Contributor,
            };
            grant(someone, role)
        }
        100..=108 => proposal(&state, here.branch, someone, step, &keep),
        109..=117 => {
            let proposed: Vec<OperationId> = state.revisions.keys().copied().collect();
            let open = |id: &OperationId| state.revision_status(*id) == Some(RevisionStatus::Proposed);
            let open: Vec<OperationId> = proposed.iter().copied().filter(open).collect();
            let revision = choose(if step.pick.is_multiple_of(6) { &proposed } else { &open }, step.pick)?;
            Body::Approve(Approve { revision })
        }
        123..=134 => {
            let updates: Vec<CommitId> = commits
                .iter()
                .copied()
                .filter(|id| matches!(*state.commits[id].commit, Commit::Update(_)))
                .collect();
            let judgement = match step.pick % 7 {
                0 => Judgement::Reject,
                1 => Judgement::Comment,
                _ => Judgement::Accept,
            };
            let asked = state.branches.get(&branch)?;
            let waiting: Vec<CommitId> = asked.waiting.iter().chain(&asked.proposed).copied().collect();
            review(choose(if waiting.is_empty() { &updates } else { &waiting }, step.pick / 7)?, judgement)
        }
        135..=150 => {
            let waiting = &state.branches.get(&branch)?.waiting;
            let among = if step.pick.is_multiple_of(9) || waiting.is_empty() { &commits } else { waiting };
            measured(&state, choose(among, step.pick / 9)?, any, step.pick.wrapping_mul(31))
        }
        151..=181 => stepped(here, &state, who, branch, step)?,
        118..=122 => {
            let all: Vec<OperationId> = state.revisions.keys().copied().collect();
            let among = if step.pick.is_multiple_of(6) { &all } else { &state.frozen };
            let revision = choose(among, step.pick)?;
            Body::Resolve(Resolve { revision, round: u64::from(step.pick % 3) })
        }
        89..=94 => revoke(someone, &choose(&keep, step.pick).into_iter().collect::<Vec<_>>()),
        95 | 96 => {
            let from = (step.pick.is_multiple_of(2)).then_some(any);
            Body::BranchCreate(BranchCreate { name: "side".into(), from })
        }
        97 => publish(initial(who, branch, number), None),
        98 => Body::BranchDelete(BranchDelete { branch: choose(&branches, step.pick)? }),
        _ => return None,
    })
}

/// A step, mostly on the head, or an accept of what was proposed.
fn stepped(here: &World, state: &State, who: u8, branch: BranchId, step: Step) -> Option<Body> {
    let of_branch = state.branches.get(&branch)?;
    if (164..170).contains(&step.what) {
        return Some(review(choose(&of_branch.proposed, step.pick)?, Judgement::Accept));
    }
    let all: Vec<CommitId> = state.commits.keys().copied().collect();
    let parent = match step.pick % 5 {
        0 => choose(&all, step.pick / 5)?,
        1 => choose(&of_branch.path, step.pick / 5)?,
        _ => of_branch.head?,
    };
    let architecture = state.described(parent).map_or(architecture(0), |described| described.architecture);
    let change = match step.what {
        151..=153 => {
            let above = state.path(parent);
            let target = match step.cheat % 8 {
                0 => choose(&all, step.pick / 3)?,
                _ => choose(&above[..above.len().saturating_sub(1)], step.pick / 3)?,
            };
            Change::Revert { target }
        }
        154..=156 => {
            let inputs = match step.cheat % 8 {
                0 => all.clone(),
                1 => Vec::new(),
                _ => of_branch.pending.iter().chain(&of_branch.waiting).copied().collect(),
            };
            let few: Vec<CommitId> = inputs.into_iter().skip(usize::from(step.pick % 2)).take(4).collect();
            external(&few, architecture)
        }
        157 | 158 => migrate(u64::from(step.pick % 3)),
        _ => {
            let heads: Vec<CommitId> = state.branches.values().filter_map(|branch| branch.head).collect();
            let made = state.commits.iter().filter(|(_, info)| info.result.is_some()).map(|(id, _)| *id);
            let path = state.path(parent);
            let pending = &of_branch.pending;
            let beside: Vec<CommitId> = made.filter(|commit| !path.contains(commit)).collect();
            let among = match step.cheat % 8 {
                0 => all.clone(),
                1 | 2 => heads,
                // Another way first, which can be merged then.
                _ if beside.is_empty() && path.len() > 1 && !pending.is_empty() => {
                    let mut world = here.clone();
                    world.branch = branch;
                    let other = aggregate(&world, path[path.len() - 2], &pending[..1]);
                    return Some(publish(other, Some(outcome(0))));
                }
                _ if beside.is_empty() => heads,
                _ => beside,
            };
            merge(choose(&among, step.pick / 3)?)
        }
    };
    let mut world = here.clone();
    world.branch = branch;
    let mut made = crate::world::step(&world, who, parent, change);
    if step.cheat.is_multiple_of(9)
        && let Commit::Step(one) = &mut made
    {
        let all: Vec<OperationId> = state.revisions.keys().copied().collect();
        one.policy = choose(&all, step.pick).unwrap_or(one.policy);
    }
    let result = made.is_recipe().then(|| outcome(u64::from(step.pick.is_multiple_of(7))));
    Some(publish(made, result))
}

/// A change of the policy: other delegates, another threshold, other bounds; sometimes somebody is cut off.
fn proposal(state: &State, branch: BranchId, someone: u8, step: Step, known: &[OperationId]) -> Body {
    if step.pick.is_multiple_of(4) {
        let keep: Vec<OperationId> = choose(known, step.pick / 4).into_iter().collect();
        let mut body = cutting(state, someone, &keep);
        if let Body::Revision(revision) = &mut body
            && let Stated::Known(policy) = &mut revision.policy
        {
            if policy.delegates.is_empty() {
                policy.delegates = people(&[if someone == 7 { 8 } else { 7 }]);
            }
            policy.threshold = policy.threshold.min(policy.delegates.len() as u32);
        }
        return body;
    }
    let mut body = revision(state, |policy| {
        match step.pick % 3 {
            0 if !policy.delegates.contains(&person(someone)) => policy.delegates.push(person(someone)),
            0 if policy.delegates.len() > 1 => policy.delegates.retain(|one| *one != person(someone)),
            1 if step.pick.is_multiple_of(2) => {
                let (accepts, more) = (u32::from(step.pick % 5 > 2), step.pick.is_multiple_of(5));
                let require = if more { vec![requirement(-0.01, 1)] } else { Vec::new() };
                let rule = BranchRule { branch, accepts: accepts + u32::from(!more), require };
                policy.branches = if policy.branches.is_empty() { vec![rule] } else { Vec::new() };
            }
            1 => policy.aggregation.max_staleness = u32::from(step.pick % 5),
            _ => policy.aggregation.every = Every::Persons(1 + u32::from(step.pick % 2)),
        }
        let delegates = policy.delegates.len() as u32;
        policy.threshold = if step.cheat.is_multiple_of(3) { delegates.min(2) } else { policy.threshold };
        policy.threshold = policy.threshold.min(delegates);
    });
    if step.cheat.is_multiple_of(8)
        && let Body::Revision(revision) = &mut body
    {
        let all: Vec<OperationId> = state.revisions.keys().copied().collect();
        revision.parent = choose(&all, step.pick).unwrap_or(revision.parent);
        revision.version = state.revisions[&revision.parent].version + 1 + u64::from(step.pick % 2);
    }
    body
}

/// Inserts in an order chosen by `shuffle`, with duplicates; what comes too early waits.
fn arrive(all: &World, shuffle: &[u16]) -> Graph {
    let mut waiting: Vec<Operation> = all.operations();
    let mut graph = Graph::new(all.graph.repo());
    for turn in 0.. {
        let Some(last) = waiting.len().checked_sub(1) else { break };
        let start = usize::from(shuffle[turn % shuffle.len()]);
        for at in (0..=last).map(|step| (start + step) % (last + 1)) {
            match graph.insert(waiting[at].clone()) {
                Ok(place) => {
                    assert!(place.is_some());
                    assert_eq!(graph.insert(waiting.swap_remove(at)), Ok(None));
                    break;
                }
                Err(GraphError::Missing(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
    graph
}

/// What histories are made of; a generator that never gets somewhere proves nothing about it.
#[test]
fn random_histories_get_everywhere() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..1600 {
        let steps = history().new_tree(&mut runner).unwrap().current();
        let state = play(&steps).state();
        let mut count = |what: String| *seen.entry(what).or_default() += 1;
        let word = |reason: String| reason.split(['(', ' ']).next().unwrap().to_owned();
        state.void.values().for_each(|why| count(word(format!("{why:?}"))));
        state.idle.values().for_each(|why| count(word(format!("{why:?}"))));
        state.frozen.iter().for_each(|_| count("frozen".to_owned()));
        count(format!("policies {}", state.chain.len()));
        for member in state.members.values() {
            count(format!("{:?}, gone {}", member.role, member.revoked.is_some()));
        }
        for revision in state.revisions.keys() {
            count(format!("{:?}", state.revision_status(*revision).unwrap()));
        }
        for (id, info) in &state.commits {
            count(format!("skipped {}", info.skipped));
            match state.explain(*id) {
                Some(UpdateStatus::InHead { .. }) => {
                    count(format!("in head, effective {}", info.is_effective()));
                }
                Some(UpdateStatus::Reverted { .. }) => count("reverted".to_owned()),
                _ => {}
            }
            match state.explain_step(*id) {
                Some(StepStatus::OnPath) => count("step on path".to_owned()),
                Some(StepStatus::PassedOver) => count("step passed over".to_owned()),
                Some(StepStatus::Waiting { .. }) => count("step waiting".to_owned()),
                _ => {}
            }
        }
        for (_, info) in
            state.commits.iter().filter(|(id, _)| state.explain_step(**id) == Some(StepStatus::OnPath))
        {
            count(format!("{} on path", info.commit.kind()));
            if let Some(merge) = info.commit.merge() {
                let parent = info.commit.base().unwrap();
                let ahead = state.common(parent, merge.other) == Some(parent);
                count(if ahead { "merge of what is ahead" } else { "merge of two" }.to_owned());
                let before = |one: &CommitId| state.commits[one].commit.merge().is_some();
                count(format!("merge of a merge {}", state.beside(merge.other, parent).iter().any(before)));
                count(format!(
                    "merge across branches {}",
                    state.commits[&merge.other].commit.branch() != info.commit.branch()
                ));
            }
        }
        for branch in state.branches.values() {
            branch.dropped.iter().for_each(|(_, why)| count(format!("dropped {why:?}")));
            count(format!("path {}", branch.path.len()));
            count(format!("deleted {}", branch.deleted));
            count(format!("waiting {}", !branch.waiting.is_empty()));
            count(format!("dropped {}", !branch.dropped.is_empty()));
        }
    }
    println!("{seen:#?}");
    for what in [
        "Stranger",
        "Revoked",
        "Quarantined",
        "Equivocation",
        "NotDelegate",
        "NotMaintainer",
        "Verifier",
        "Version",
        "Revision",
        "Policy",
        "frozen",
        "waiting true",
        "Unreviewed",
        "Unevaluated",
        "Against",
        "Unseen",
        "policies 3",
        "Maintainer, gone true",
        "Delegate, gone true",
        "Contradicted",
        "PassedOver",
        "Reader",
        "Rank",
        "Deleted",
        "NotFirst",
        "ForeignBase",
        "OthersUpdate",
        "Input",
        "Consumed",
        "Unsupported",
        "Stale",
        "Persons",
        "Target",
        "reverted",
        "revert on path",
        "external on path",
        "migrate on path",
        "merge on path",
        "merge of what is ahead",
        "merge of two",
        "merge across branches true",
        "Other",
        "Merged",
        "dropped Migrated",
        "Migrated",
        "Architecture",
        "step passed over",
        "step waiting",
        "Aggregate",
        "skipped true",
        "in head, effective false",
        "path 3",
        "path 4",
        "dropped true",
    ] {
        assert!(seen.contains_key(what), "{what} never occurred");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(10_000), ..ProptestConfig::default() })]

    #[test]
    fn the_same_operations_give_one_state_and_the_rules_agree(
        steps in history(),
        shuffle in prop::collection::vec(any::<u16>(), 1..40),
    ) {
        let all = play(&steps);
        let state = all.state();
        let graph = arrive(&all, &shuffle);
        let again = State::evaluate(&graph);
        prop_assert_eq!(graph.heads().collect::<Vec<_>>(), all.graph.heads().collect::<Vec<_>>());
        prop_assert_eq!(&again, &state);
        prop_assert_eq!(again.fingerprint(), state.fingerprint());
        prop_assert_eq!(Verdict::of(&state), Verdict::by_the_rules(&all.graph));
    }
}
