//! Measuring models on this person's own data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flair_node::api::types::{Done, ExportRequest, Problem};
use flair_node::evaluate::{self, Measurements, Settings};
use flair_node::folder::Folder;

use crate::context::{Context, note};

/// A set of data, how models are measured on it, and what was measured so far.
pub(crate) struct Measure {
    /// What this person calls the data.
    pub(crate) set: String,
    pub(crate) settings: Settings,
    /// The working folder.
    pub(crate) root: PathBuf,
    known: BTreeMap<String, Measurements>,
}

impl Measure {
    /// By the settings of the working folder.
    pub(crate) fn new(context: &Context, on: Option<&str>) -> Result<Self, Problem> {
        let root = Folder::find(&context.folder).map_err(|error| {
            Problem::from(error)
                .help("evaluate in a working folder: its .flair/config.toml says on which data and how")
        })?;
        let root = root.root().to_owned();
        let (set, settings) = evaluate::load(&root, on)?;
        Ok(Self { set, settings, root, known: BTreeMap::new() })
    }

    /// Measures a commit's model, once.
    pub(crate) async fn commit(
        &mut self,
        context: &mut Context,
        commit: &str,
    ) -> Result<Measurements, Problem> {
        if let Some(known) = self.known.get(commit) {
            return Ok(known.clone());
        }
        let scratch = evaluate::scratch(&self.root)?;
        let folder = scratch.path().join("model");
        let request = ExportRequest {
            place: context.place(),
            commit: Some(commit.to_owned()),
            output: Some(folder.clone()),
            force: false,
            onto: None,
            local: true,
            automerge: None,
        };
        let _: Done = context.post("/v1/export", &request).await?;
        let measured = self.folder(context, &folder, crate::render::short(commit)).await?;
        self.known.insert(commit.to_owned(), measured.clone());
        Ok(measured)
    }

    /// Measures the model in a folder. The home is nobody's meanwhile: the command may take long, or use it.
    pub(crate) async fn folder(
        &self,
        context: &mut Context,
        folder: &Path,
        name: &str,
    ) -> Result<Measurements, Problem> {
        context.release().await;
        if !context.quiet && !context.json {
            note(&format!("Measuring {name} on {}", self.set));
        }
        evaluate::run(&self.settings, &self.root, folder, context.verbose).await
    }
}
