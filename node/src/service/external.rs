//! The model that an adapter is for: pinned in the repository, checked on each machine.

use flair_protocol::id::Digest;
use flair_protocol::limits;
use flair_protocol::model::Manifest;

use super::Service;
use super::local::{self, blocking};
use crate::api::types::{self, ExternalBaseRequest, PinRequest, Problem};
use crate::folder::Folder;
use crate::folder::external::{EXTERNAL, External, Found};

impl Service {
    /// Writes what an external base holds beside an adapter, as a side file that `init` and a migration take along.
    ///
    /// # Errors
    /// No folder, no model, a model that is the adapter itself.
    pub async fn external_pin(&self, request: PinRequest) -> Result<types::ExternalBase, Problem> {
        if !request.folder.is_dir() {
            return Err(Problem::invalid(format!("{} is not a folder", request.folder.display())).help(
                "an external base is pinned beside an adapter: give the folder with its adapter_config.json",
            ));
        }
        if request.path.canonicalize().ok() == request.folder.canonicalize().ok() {
            return Err(Problem::invalid("the external base is the model itself")
                .help("give the model that the adapter was made for"));
        }
        self.hub.tell("work", None, "reading the external base");
        blocking(move || {
            let (external, _) = External::read(&request.path)?;
            external.pin(&request.folder)?;
            let path = Some(request.path.display().to_string());
            Ok(types::ExternalBase { path, checked: true, ..described(&external) })
        })
        .await
    }

    /// Shows the external base of a folder's branch, or compares a model with it and remembers where it is.
    ///
    /// # Errors
    /// Nothing pinned; a model that is another one.
    pub async fn external(&self, request: ExternalBaseRequest) -> Result<types::ExternalBase, Problem> {
        let (_, folder) = self.work(&request.place).await?;
        let manifest = local::manifest(&self.hub, folder.tip()).await?;
        let Some((pin, external)) = self.pinned(&manifest).await? else {
            return Err(Problem::missing("this branch pins no external base").help(
                "`flair init <folder> --external-base <path>` pins one; in a repository that exists, \
                 `flair external-base --pin <path>` and `flair commit --migrate`",
            ));
        };
        let found = match request.path {
            Some(path) => {
                self.hub.tell("work", None, "reading the external base");
                let pinned = external.clone();
                blocking(move || {
                    let path = path.canonicalize().unwrap_or(path);
                    let (read, files) = External::read(&path)?;
                    if let Some(why) = pinned.differs(&read) {
                        return Err(another(&path.display().to_string(), &pinned, &why));
                    }
                    let found = Found::new(path, pin, files);
                    found.save(&folder)?;
                    Ok(Some(found))
                })
                .await?
            }
            None => Found::load(&folder),
        };
        let checked = found.as_ref().is_some_and(|found| found.pin == pin && found.same());
        let path = found.map(|found| found.path.display().to_string());
        Ok(types::ExternalBase { path, checked, ..described(&external) })
    }

    /// What to say of the external base before something is made with it. Files that changed are compared again.
    ///
    /// # Errors
    /// A model that is another one by now.
    pub(super) async fn external_holds(&self, folder: &Folder) -> Result<Option<String>, Problem> {
        let manifest = local::manifest(&self.hub, folder.tip()).await?;
        let Some((pin, external)) = self.pinned(&manifest).await? else { return Ok(None) };
        let Some(found) = Found::load(folder) else { return Ok(Some(unchecked(&external))) };
        if found.pin == pin && found.same() {
            return Ok(None);
        }
        if !found.path.exists() {
            return Ok(Some(unchecked(&external)));
        }
        let folder = folder.clone();
        blocking(move || {
            let (read, files) = External::read(&found.path)?;
            if let Some(why) = external.differs(&read) {
                return Err(another(&found.path.display().to_string(), &external, &why));
            }
            Found::new(found.path, pin, files).save(&folder)?;
            Ok(None)
        })
        .await
    }

    /// What to say of an external base in the status; reads nothing of it.
    pub(super) async fn external_words(&self, folder: &Folder) -> Result<Option<String>, Problem> {
        let manifest = local::manifest(&self.hub, folder.tip()).await?;
        let Some((pin, external)) = self.pinned(&manifest).await? else { return Ok(None) };
        let checked = Found::load(folder).is_some_and(|found| found.pin == pin && found.same());
        Ok((!checked).then(|| unchecked(&external)))
    }

    /// The external base that a model's side files pin, with the id of what pins it.
    async fn pinned(&self, manifest: &Manifest) -> Result<Option<(Digest, External)>, Problem> {
        let Some(side) = manifest.side.iter().find(|side| side.name == EXTERNAL) else { return Ok(None) };
        let bytes = self.hub.store.read_all(side.blob, limits::SIDE_FILE).await?;
        Ok(Some((side.blob, External::parse(&bytes)?)))
    }
}

fn described(external: &External) -> types::ExternalBase {
    types::ExternalBase {
        name: external.name.clone(),
        tensors: external.tensors.len() as u64,
        path: None,
        checked: false,
    }
}

fn another(path: &str, pinned: &External, why: &str) -> Problem {
    Problem::invalid(format!("{path} is not the external base `{}`: {why}", pinned.name)).help(
        "an adapter fits the model it was trained on: get that one, and give it with `flair external-base <path>`",
    )
}

fn unchecked(external: &External) -> String {
    format!(
        "the external base `{}` was not checked on this machine, or its files changed since: `flair external-base <path>`",
        external.name
    )
}
