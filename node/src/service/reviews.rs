//! Reviews: what waits for accepts, and judging it.

use flair_protocol::commit::Commit;
use flair_protocol::id::CommitId;
use flair_protocol::operation::Body;
use flair_protocol::operation::body::{Judgement, Review};
use flair_protocol::policy::Role;
use flair_protocol::state::{CommitInfo, State, StepStatus};

use super::{Service, find_commit, name_of, views};
use crate::api::types::{self, At, Done, Problem, ReviewRequest, Reviewed};
use crate::repository::Extras;

impl Service {
    /// Updates of protected branches, and steps, that wait for accepts or evaluations.
    ///
    /// # Errors
    /// No such repository.
    pub async fn reviews(&self, request: At) -> Result<Vec<Reviewed>, Problem> {
        let (repository, _) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let waiting = state.open_branches().flat_map(|branch| {
            let steps = branch.proposed.iter().filter_map(|step| self.proposed(&state, &branch.name, *step));
            let updates = branch.waiting.iter();
            steps.chain(updates.filter_map(|update| self.waits(&state, &branch.name, *update)))
        });
        Ok(waiting.collect())
    }

    fn proposed(&self, state: &State, branch: &str, commit: CommitId) -> Option<Reviewed> {
        let info = state.commits.get(&commit)?;
        let step = info.commit.step()?;
        let StepStatus::Waiting { accepts, needed, behind: Some(_) } = state.explain_step(commit)? else {
            return None;
        };
        let me = self.hub.me();
        let given = info.acceptance.as_ref().is_some_and(|acceptance| acceptance.by.contains(&me));
        let mine = state.role(me) >= Some(Role::Maintainer) && !given && (step.author != me || needed < 2);
        Some(Reviewed {
            commit: commit.to_string(),
            kind: step.change.kind().to_owned(),
            branch: branch.to_owned(),
            by: name_of(state, step.author),
            message: views::words(step),
            accepts,
            needed,
            evaluations: Vec::new(),
            mine,
            reviews: all(state, info),
        })
    }

    fn waits(&self, state: &State, branch: &str, update: CommitId) -> Option<Reviewed> {
        let info = state.commits.get(&update)?;
        let Commit::Update(commit) = info.commit.as_ref() else { return None };
        let needed = state.policy.as_ref()?.accepts(commit.branch);
        let me = self.hub.me();
        let mine = state.role(me) >= Some(Role::Maintainer)
            && info.accepts(needed) < needed
            && !info.accepted_by().contains(&me)
            && (commit.author != me || needed < 2);
        Some(Reviewed {
            commit: update.to_string(),
            kind: info.commit.kind().to_owned(),
            branch: branch.to_owned(),
            by: name_of(state, commit.author),
            message: commit.message.clone(),
            accepts: info.accepts(needed),
            needed,
            evaluations: state
                .lacking(update)
                .iter()
                .map(|(one, found)| format!("{one}, met by {found} so far"))
                .collect(),
            mine,
            reviews: all(state, info),
        })
    }

    /// Judges a commit.
    ///
    /// # Errors
    /// No such commit, no right to.
    pub async fn review(&self, request: ReviewRequest) -> Result<Done, Problem> {
        let (repository, _) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let commit = find_commit(&state, &request.commit)?;
        let judgement = match request.judgement.as_str() {
            "accept" => Judgement::Accept,
            "reject" => Judgement::Reject,
            "comment" => Judgement::Comment,
            other => {
                return Err(
                    Problem::invalid(format!("`{other}` is no judgement")).help("accept, reject or comment")
                );
            }
        };
        if let (Judgement::Accept, false, Some(StepStatus::Waiting { behind, .. })) =
            (judgement, request.force, state.explain_step(commit))
            && behind != Some(0)
        {
            let late = behind.map_or_else(
                || "its parent is not on the path to the head any more".to_owned(),
                |behind| match behind {
                    1 => "1 commit came after its parent".to_owned(),
                    _ => format!("{behind} commits came after its parent"),
                },
            );
            return Err(Problem::conflict(format!("{late}: accepting it takes out of the head what came since")).help(
                "what they took in is pending again then: accept all the same with `--force`, or have it proposed on the \
                 new head",
            ));
        }
        let body = Body::Review(Review { commit, judgement, text: request.text });
        self.hub.publish(&repository, body, Extras::default()).await?;
        let state = repository.state().await;
        let mut words = vec![format!(
            "You {} {}.",
            match judgement {
                Judgement::Accept => "accept",
                Judgement::Reject => "reject",
                Judgement::Comment => "commented on",
            },
            commit.short()
        )];
        words.extend(views::step(&state, commit).map(|note| {
            let kind = state.commits.get(&commit).map_or("step", |info| info.commit.kind());
            format!("The {kind} {} {}.", commit.short(), note.words)
        }));
        words.extend(
            views::update(&state, commit, None)
                .map(|note| format!("Update {} {}.", commit.short(), note.words)),
        );
        Ok(Done { words })
    }
}

/// What was said of a commit.
pub(super) fn all(state: &State, info: &CommitInfo) -> Vec<types::Review> {
    let said = info.reviews.iter().map(|review| types::Review {
        by: name_of(state, review.person),
        judgement: match review.judgement {
            Judgement::Accept => "accept",
            Judgement::Reject => "reject",
            Judgement::Comment => "comment",
        }
        .to_owned(),
        text: review.text.clone(),
        time: review.time,
    });
    said.collect()
}
