//! Branches: list, create, rename, delete.

use flair_protocol::commit::Commit;
use flair_protocol::id::BranchId;
use flair_protocol::operation::Body;
use flair_protocol::operation::body::{BranchCreate, BranchDelete, BranchRename};

use super::{Service, find_branch, find_commit, views};
use crate::api::types::{At, Branch, BranchCreateRequest, BranchRequest, Done, Problem};
use crate::repository::Extras;

impl Service {
    /// The open branches.
    ///
    /// # Errors
    /// No such repository.
    pub async fn branches(&self, request: At) -> Result<Vec<Branch>, Problem> {
        let (repository, folder) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let current = folder.map(|folder| folder.state.branch);
        Ok(state.open_branches().map(|branch| views::branch(&state, &repository, branch, current)).collect())
    }

    /// Creates a branch.
    ///
    /// # Errors
    /// A name that is taken or can't be one, a commit that is not there, no right to.
    pub async fn branch_create(&self, request: BranchCreateRequest) -> Result<Branch, Problem> {
        let (repository, folder) = self.locate(&request.place).await?;
        let state = repository.state().await;
        if state.branch(&request.name).is_some() {
            return Err(Problem::conflict(format!("there is a branch `{}` already", request.name)));
        }
        let from = match &request.from {
            Some(text) => find_commit(&state, text)?,
            None => find_branch(&state, None, folder.as_ref())?
                .head
                .ok_or_else(|| Problem::conflict("the branch has no commit to start from yet"))?,
        };
        if let Some(Commit::Update(update)) = state.commits.get(&from).map(|info| info.commit.as_ref()) {
            return Err(Problem::invalid(format!(
                "{} is an update: a branch starts from a first commit, an aggregate or a step",
                from.short()
            ))
            .help(format!(
                "its base is {0}: `--from {0}`",
                state.base(from).unwrap_or(update.base).short()
            )));
        }
        let body = Body::BranchCreate(BranchCreate { name: request.name, from: Some(from) });
        let id = self.hub.publish(&repository, body, Extras::default()).await?;
        let state = repository.state().await;
        let id = BranchId::from_digest(id.digest());
        let branch = state.branches.get(&id).ok_or_else(|| Problem::internal("the branch did not appear"))?;
        Ok(views::branch(&state, &repository, branch, folder.map(|folder| folder.state.branch)))
    }

    /// Gives a branch another name.
    ///
    /// # Errors
    /// No such branch, a name that is taken or can't be one, no right to.
    pub async fn branch_rename(&self, request: BranchRequest) -> Result<Done, Problem> {
        let (repository, folder) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let branch = find_branch(&state, Some(&request.branch), folder.as_ref())?.id;
        let name = request.name.ok_or_else(|| Problem::invalid("no new name given"))?;
        if state.branch(&name).is_some() {
            return Err(Problem::conflict(format!("there is a branch `{name}` already")));
        }
        let words = format!("branch `{}` is `{name}` now", request.branch);
        self.hub
            .publish(&repository, Body::BranchRename(BranchRename { branch, name }), Extras::default())
            .await?;
        Ok(Done { words: vec![words] })
    }

    /// Closes a branch.
    ///
    /// # Errors
    /// No such branch, the folder's own branch, no right to.
    pub async fn branch_delete(&self, request: BranchRequest) -> Result<Done, Problem> {
        let (repository, folder) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let branch = find_branch(&state, Some(&request.branch), folder.as_ref())?.id;
        if folder.is_some_and(|folder| folder.state.branch == branch) {
            return Err(Problem::conflict(format!("this folder is on branch `{}`", request.branch))
                .help("check out another branch first"));
        }
        self.hub.publish(&repository, Body::BranchDelete(BranchDelete { branch }), Extras::default()).await?;
        let words =
            format!("branch `{}` takes no more commits and is not listed; its history stays", request.branch);
        Ok(Done { words: vec![words] })
    }
}
