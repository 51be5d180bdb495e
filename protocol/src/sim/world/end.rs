//! How a world ends: whether all nodes have the same, and whether that is what they should have.

use super::{PATIENCE, World};
use crate::commit::Commit;
use crate::engine::{Engine, Peer};
use crate::sim::Report;
use crate::state::{State, UpdateStatus};
use crate::wire::Frontier;

impl World {
    pub(super) fn engines(&self) -> impl Iterator<Item = &Engine> {
        self.nodes.iter().take(self.options.nodes).filter_map(|node| node.engine.as_ref())
    }

    pub(super) fn settled(&self) -> bool {
        let mut frontiers = self.engines().map(|engine| Frontier::of(engine.graph()));
        let first = frontiers.next();
        frontiers.all(|frontier| Some(frontier) == first)
            && self.engines().all(|engine| engine.unstored() == 0)
            && self.nodes.iter().all(|node| node.writing.is_empty())
            && (self.options.liars > 0 || self.engines().all(|engine| engine.pending() == 0))
    }

    pub(super) fn judge(mut self) -> Result<Report, String> {
        if !self.settled() {
            let stand = |engine: &Engine| {
                format!(
                    "{} ({} pending, {} unstored)",
                    engine.graph().len(),
                    engine.pending(),
                    engine.unstored()
                )
            };
            let counts: Vec<_> = self.engines().map(stand).collect();
            return Err(format!("sets still differ after a calm {PATIENCE} ms: {}", counts.join(", ")));
        }
        for (place, node) in self.nodes.iter().enumerate().take(self.options.nodes) {
            let Some(engine) = &node.engine else { return Err(format!("node {place} is down")) };
            let graph = engine.graph();
            if let Some(lost) = node.acknowledged.iter().find(|id| !graph.contains(**id)) {
                return Err(format!("node {place} was told that {} is stored, and it is gone", lost.short()));
            }
            let honest = |author: &Peer| self.places.get(author).is_none_or(|place| !self.is_liar(*place));
            for author in graph.authors().filter(honest) {
                if let Some((seq, _)) = graph.by_author(author).find(|(_, places)| places.len() > 1) {
                    return Err(format!("{author} signed two operations with number {seq}"));
                }
            }
            if graph.len() != node.disk.len() || graph.iter().any(|one| !node.disk.contains_key(&one.id())) {
                return Err(format!("what node {place} has on disk is not its set"));
            }
        }
        self.report.aggregates = self.same_state()?;
        let frontier = self.engines().next().map(|engine| Frontier::of(engine.graph()));
        self.report.operations = frontier.as_ref().map_or(0, |frontier| frontier.count as usize);
        self.report.digest = frontier.map(|frontier| frontier.digest);
        Ok(self.report)
    }

    /// Every node makes the same of the set, and no update of an honest author got lost in it. How many
    /// aggregates the head stands on.
    fn same_state(&self) -> Result<usize, String> {
        let states: Vec<_> = self.engines().map(|engine| State::evaluate(engine.graph())).collect();
        let Some(first) = states.first() else { return Ok(0) };
        if states.iter().any(|state| state.fingerprint() != first.fingerprint()) {
            return Err("equal sets have different states".into());
        }
        // What a liar published and then forfeited may have been somebody's base.
        let liars = self.options.liars > 0;
        let updates = first.commits.iter().filter(|(_, info)| matches!(*info.commit, Commit::Update(_)));
        for (id, _) in updates {
            match first.explain(*id) {
                Some(
                    UpdateStatus::InHead { .. } | UpdateStatus::Pending { .. } | UpdateStatus::Dropped { .. },
                ) => {}
                _ if liars => {}
                other => {
                    return Err(format!(
                        "update {} is neither in the head nor pending: {other:?}",
                        id.short()
                    ));
                }
            }
        }
        let head = first.branches.values().next().and_then(|branch| branch.head);
        Ok(head.and_then(|head| first.generation(head)).map_or(0, |generation| generation as usize))
    }
}
