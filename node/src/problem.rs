//! From what went wrong inside to what people and scripts are told.

use std::fmt::Display;

use flair_protocol::commit::CommitError;
use flair_protocol::model::ModelError;
use flair_protocol::operation::{BodyError, OperationError};
use flair_protocol::ticket::{JoinError, TicketError};

use crate::api::types::{Code, Problem};
use crate::folder::FolderError;
use crate::home::HomeError;
use crate::store::StoreError;

impl Problem {
    /// A failure of the given kind.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: None }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// A flag, file or id that can't be used.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::Invalid, message)
    }

    /// Nothing of that name.
    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// Not allowed to this person.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(Code::Denied, message)
    }

    /// Not now.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Code::Conflict, message)
    }

    /// A node or peer is needed.
    pub fn offline(message: impl Into<String>) -> Self {
        Self::new(Code::Offline, message)
    }

    /// A failure of our own.
    pub fn internal(error: impl Display) -> Self {
        Self::new(Code::Internal, error.to_string())
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.message)
    }
}

impl std::error::Error for Problem {}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Full { .. } => Code::Full,
            StoreError::Absent { .. } | StoreError::Unheld { .. } => Code::NotFound,
            StoreError::Tensor { .. } | StoreError::Pack { .. } => Code::Unverified,
            StoreError::Home(_) => Code::Conflict,
            _ => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<HomeError> for Problem {
    fn from(error: HomeError) -> Self {
        let code = match &error {
            HomeError::Held { .. } => Code::Conflict,
            HomeError::Io { .. } => Code::Internal,
            _ => Code::Invalid,
        };
        Self::new(code, error.to_string())
    }
}

impl From<FolderError> for Problem {
    fn from(error: FolderError) -> Self {
        let code = match &error {
            FolderError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Code::Full,
            FolderError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Code::NotFound,
            FolderError::Io { .. } | FolderError::State { .. } => Code::Internal,
            FolderError::Outside(_) => Code::NotFound,
            FolderError::Taken(_) | FolderError::Occupied(_) | FolderError::Changed(_) => Code::Conflict,
            FolderError::File { .. } | FolderError::Unfit(_) => Code::Invalid,
        };
        Self::new(code, error.to_string())
    }
}

macro_rules! invalid {
    ($($error:ty),*) => {
        $(impl From<$error> for Problem {
            fn from(error: $error) -> Self {
                Self::invalid(error.to_string())
            }
        })*
    };
}

invalid!(
    BodyError,
    CommitError,
    ModelError,
    TicketError,
    JoinError,
    OperationError,
    flair_protocol::cbor::CborError
);
