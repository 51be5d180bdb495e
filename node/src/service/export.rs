//! Models and documents out of the store, beside any working folder.

use std::fs;
use std::path::Path;

use super::diff::named_model;
use super::local::{self, blocking};
use super::{Service, find_branch, merge};
use crate::api::types::{Done, ExportRequest, Problem};
use crate::folder::own::Own;
use crate::folder::{MARK, at, write};
use crate::models;

impl Service {
    /// Writes a commit's files as they were committed; or the repository document, an automerge file for reading and
    /// exchange with other tools.
    ///
    /// # Errors
    /// A model that is not here, a file that exists or can't be written.
    pub async fn export(&self, request: ExportRequest) -> Result<Done, Problem> {
        let mut words = Vec::new();
        if let Some(path) = &request.automerge {
            words.push(self.document(&request, path).await?);
        }
        if let Some(path) = &request.output {
            words.extend(self.files(&request, path).await?);
        }
        if words.is_empty() {
            return Err(Problem::invalid("nothing to write").help("say where with `-o` or `--automerge`"));
        }
        Ok(Done { words })
    }

    async fn document(&self, request: &ExportRequest, path: &Path) -> Result<String, Problem> {
        let (repository, _) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let document = repository.graph(|graph| flair_protocol::document::build(graph, &state)).await;
        let document = document.map_err(Problem::internal)?;
        let bytes = document.bytes.len();
        write::replace(path, |out| std::io::Write::write_all(out, &document.bytes))?;
        Ok(format!("wrote {} ({bytes} bytes)", path.display()))
    }

    async fn files(&self, request: &ExportRequest, path: &Path) -> Result<Vec<String>, Problem> {
        let (repository, folder) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let (name, model) = match (&request.commit, &folder) {
            (Some(text), folder) => named_model(&repository, &state, folder.as_ref(), text)?,
            (None, Some(folder)) => (folder.state.base.short(), folder.state.base_model),
            (None, None) => {
                let branch = find_branch(&state, None, None)?;
                named_model(&repository, &state, None, &branch.name)?
            }
        };
        let mut manifest = local::manifest(&self.hub, model).await?;
        if let Some(base) = &request.onto {
            if path.join(MARK).exists() {
                return Err(Problem::conflict(format!("{} is a working folder", path.display()))
                    .help("name another folder with `-o`, and copy the files from there"));
            }
            let written =
                merge::merge(&self.hub.store, manifest, base.clone(), path.to_owned(), request.force).await?;
            let first = format!("wrote {} with {name} in it to {}", base.display(), path.display());
            return Ok([first].into_iter().chain(written.iter().map(|name| format!("  {name}"))).collect());
        }
        let single = path.extension().is_some_and(|extension| extension == "safetensors") && !path.is_dir();
        let mut left = Vec::new();
        let root = if single {
            let [file] = manifest.files.as_mut_slice() else {
                return Err(Problem::invalid(format!(
                    "{name} has {} model files, and {} is one",
                    manifest.files.len(),
                    path.display()
                ))
                .help("name a folder with `-o`"));
            };
            file.name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            left.extend(manifest.side.drain(..).map(|side| side.name));
            path.parent().unwrap_or(Path::new(".")).to_owned()
        } else {
            if path.join(MARK).exists() {
                return Err(Problem::conflict(format!("{} is a working folder", path.display()))
                    .help("`flair checkout` moves it to a commit; or name another folder with `-o`"));
            }
            path.to_owned()
        };
        let names: Vec<String> = manifest
            .files
            .iter()
            .map(|file| file.name.clone())
            .chain(manifest.side.iter().map(|side| side.name.clone()))
            .collect();
        if let Some(taken) = names.iter().find(|name| !request.force && root.join(name).exists()) {
            return Err(Problem::conflict(format!("{} exists already", root.join(taken).display()))
                .help("name another place with `-o`, or replace it with `--force`"));
        }
        fs::create_dir_all(&root).map_err(|error| at(&root, error))?;
        let (store, target) = (self.hub.store.clone(), root.clone());
        let bytes = manifest.bytes();
        let side = models::stage_side(&store, &manifest, &root).await?;
        let own = match &folder {
            Some(folder) if request.local => Own::open(folder.root())?,
            _ => Own::default(),
        };
        let known = match folder {
            // Named as in the folder, or there is nothing to share.
            Some(folder) if !single => Some(self.known(&folder).await?),
            _ => None,
        };
        let mut staged =
            blocking(move || models::stage(&store, &manifest, &target, known.as_ref(), &own)).await?;
        staged.extend(side);
        for file in staged {
            file.persist()?;
        }
        let mut words = vec![format!("wrote {name} to {} ({bytes} bytes)", path.display())];
        words.extend(names.iter().filter(|_| !single).map(|name| format!("  {name}")));
        if !left.is_empty() {
            words.push(format!("without {}: a folder takes them too", left.join(", ")));
        }
        Ok(words)
    }
}
