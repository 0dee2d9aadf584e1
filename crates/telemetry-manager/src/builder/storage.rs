//! The storage of the exporter to be built: directories that can be used, or memory only.

use std::error::Error;
use std::path::PathBuf;

use otlp_transport::ErrorChain;
use resilient_exporter::{BuildError, StorageNote};

use super::place::{Placed, place, user};
use crate::error::SetupError;
use crate::settings::directories::VARIABLES;
use crate::settings::table::{FALLBACK_ENABLED, STATE_DIR};
use crate::settings::{Chosen, Settings};

/// The trouble that was found so far.
#[derive(Default)]
pub(super) struct Storage {
    notes: Vec<StorageNote>,
    /// The reason for which spans are in memory only.
    memory_only: Option<StorageNote>,
}

impl Storage {
    /// Finds the places of the directories, and looks for trouble, before the exporter is built.
    ///
    /// # Errors
    ///
    /// If storage is required and has no directory, or one that cannot be used.
    pub(super) fn prepare(settings: &mut Settings) -> Result<Self, SetupError> {
        let mut storage = Self::default();
        storage.look_for_directories(settings)?;
        storage.place(settings)?;
        Ok(storage)
    }

    fn look_for_directories(&mut self, settings: &mut Settings) -> Result<(), SetupError> {
        let exporter = &settings.exporter;
        let is_journal_without = exporter.journal.enabled && exporter.state_dir.is_none();
        if !settings.lacks_directory() && !is_journal_without {
            return Ok(());
        }
        if exporter.state_dir_required {
            return Err(SetupError::NoDirectory);
        }
        let cause = format!("none of {}, {} names a directory", STATE_DIR.name, VARIABLES.join(", "));
        if !settings.lacks_directory() {
            // The files have a directory, or are off.
            settings.exporter.journal.enabled = false;
            let note = StorageNote::new(format!("durable mode is off: {cause}"), format!("set {}", STATE_DIR.name));
            self.note(settings, STATE_DIR.name, note);
            return Ok(());
        }
        let remedy = format!("set {}, or {}=false if that is intended", STATE_DIR.name, FALLBACK_ENABLED.name);
        self.keep_in_memory(settings, STATE_DIR.name, &cause, &remedy);
        Ok(())
    }

    /// Gives the exporter the directories of the service, where they are in the chosen ones.
    fn place(&mut self, settings: &mut Settings) -> Result<(), SetupError> {
        let exporter = &settings.exporter;
        if !exporter.fallback.enabled && !exporter.journal.enabled {
            return Ok(());
        }
        let service = settings.service().directory();
        let Chosen { state_dir, state_dir_from, fallback_dir, fallback_dir_from } = settings.chosen.clone();
        let files = fallback_dir.filter(|_| exporter.fallback.enabled);
        let state = state_dir.filter(|_| exporter.state_dir.is_some());
        for (chosen, from, is_files) in [(files, fallback_dir_from, true), (state, state_dir_from, false)] {
            let Some(chosen) = chosen else { continue };
            let dir = match place(&chosen, from, &service) {
                Ok(Placed { base, notes, warnings }) => {
                    warnings.into_iter().for_each(|warning| settings.warn(from, warning));
                    self.notes.extend(notes);
                    base.join(&service)
                }
                Err(error) => {
                    self.unusable(settings, from, Some(chosen.join(&service)), Box::new(error))?;
                    continue;
                }
            };
            let exporter = &mut settings.exporter;
            if is_files { exporter.fallback.dir = Some(dir) } else { exporter.state_dir = Some(dir) }
        }
        let exporter = &mut settings.exporter;
        if exporter.fallback.dir == exporter.state_dir {
            // One directory is not opened twice.
            exporter.fallback.dir = None;
        }
        Ok(())
    }

    /// Gives the exporter's builder the trouble, after all of its other changes.
    pub(super) fn apply(&self, builder: resilient_exporter::Builder) -> resilient_exporter::Builder {
        let builder = match &self.memory_only {
            Some(note) => builder.memory_only(note.clone()),
            None => builder,
        };
        builder.with_storage_notes(self.notes.iter().cloned())
    }

    /// Answers an exporter that was not built: with a directory less, or with none, it may be built now.
    ///
    /// # Errors
    ///
    /// If storage is required, if the error is not about storage, or if the exporter was built without a directory.
    pub(super) fn refused(&mut self, settings: &mut Settings, error: BuildError) -> Result<(), SetupError> {
        if !error.is_of_storage() || self.memory_only.is_some() {
            return Err(SetupError::Exporter(error));
        }
        let is_about_files = match &error {
            BuildError::Fallback(_) | BuildError::FallbackDirectory(_) => true,
            BuildError::StateDir { path, .. } => settings.exporter.fallback.dir.as_ref() == Some(path),
            _ => false,
        };
        let Chosen { state_dir_from, fallback_dir_from, .. } = settings.chosen;
        let files = settings.exporter.fallback.dir.clone().filter(|_| is_about_files);
        let (from, dir) = match files.clone().or_else(|| settings.exporter.state_dir.clone()) {
            Some(dir) if files.is_some() => (fallback_dir_from, Some(dir)),
            dir => (state_dir_from, dir),
        };
        // The exporter was told that its storage is required: here it may be no error.
        let error: Box<dyn Error + Send + Sync> = match error {
            BuildError::StateDir { error, .. } => Box::new(error),
            error => Box::new(error),
        };
        self.unusable(settings, from, dir, error)
    }

    /// Goes on without the directory that cannot be used.
    fn unusable(
        &mut self,
        settings: &mut Settings,
        from: &'static str,
        dir: Option<PathBuf>,
        error: Box<dyn Error + Send + Sync>,
    ) -> Result<(), SetupError> {
        let exporter = &mut settings.exporter;
        // Without one, the caller's `with_exporter` has chosen it.
        let path = dir.unwrap_or_default();
        if exporter.state_dir_required {
            return Err(SetupError::Directory { setting: from, path, error });
        }
        let cause = format!("{path:?} of {from} cannot be used ({})", ErrorChain(&*error));
        let remedy = remedy();
        let (files, state) = (exporter.fallback.dir.clone(), exporter.state_dir.clone());
        let goes_on = match (files, state) {
            (Some(files), Some(state)) if files == path => {
                exporter.fallback.dir = None;
                format!("spans go to files in {}", state.display())
            }
            (Some(files), Some(_)) => {
                (exporter.state_dir, exporter.journal.enabled) = (None, false);
                format!("spans go to files in {}, and durable mode is off", files.display())
            }
            _ => {
                self.keep_in_memory(settings, from, &cause, &remedy);
                return Ok(());
            }
        };
        self.note(settings, from, StorageNote::new(format!("{cause}; {goes_on}"), &remedy));
        Ok(())
    }

    fn note(&mut self, settings: &mut Settings, setting: &'static str, note: StorageNote) {
        settings.note(setting, note.to_string());
        self.notes.push(note);
    }

    fn keep_in_memory(&mut self, settings: &mut Settings, setting: &str, cause: &str, remedy: &str) {
        let note = StorageNote::memory_only(cause, remedy);
        let exporter = &mut settings.exporter;
        (exporter.state_dir, exporter.fallback.dir, exporter.journal.enabled) = (None, None, false);
        settings.note(setting, note.to_string());
        self.memory_only = Some(note);
    }
}

/// The remedy for a directory that cannot be used.
fn remedy() -> String {
    format!("set {} to a directory that user {} can make or write in", STATE_DIR.name, user())
}
