//! How a failure travels: as a status and JSON over HTTP, as an exit code from a command.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::types::{Code, Problem};

impl Code {
    /// The exit code of a command that failed so.
    pub fn exit(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Invalid => 2,
            Self::NotFound => 3,
            Self::Denied => 4,
            Self::Conflict => 5,
            Self::Offline => 6,
            Self::Full => 7,
            Self::Unverified => 8,
        }
    }

    /// The status of a response that says so.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Conflict => StatusCode::CONFLICT,
            Self::Offline => StatusCode::SERVICE_UNAVAILABLE,
            Self::Full => StatusCode::INSUFFICIENT_STORAGE,
            Self::Unverified => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    /// The stable word, as in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Invalid => "invalid",
            Self::NotFound => "not-found",
            Self::Denied => "denied",
            Self::Conflict => "conflict",
            Self::Offline => "offline",
            Self::Full => "full",
            Self::Unverified => "unverified",
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.code.status(), Json(self)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Code; 8] = [
        Code::Internal,
        Code::Invalid,
        Code::NotFound,
        Code::Denied,
        Code::Conflict,
        Code::Offline,
        Code::Full,
        Code::Unverified,
    ];

    #[test]
    fn scripts_can_tell_every_failure_apart() {
        let exits: std::collections::BTreeSet<u8> = ALL.iter().map(|code| code.exit()).collect();
        assert_eq!(exits.into_iter().collect::<Vec<_>>(), (1..=8).collect::<Vec<u8>>());
        let statuses: std::collections::BTreeSet<_> = ALL.iter().map(|code| code.status()).collect();
        assert_eq!(statuses.len(), ALL.len());
        for code in ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.word());
        }
    }
}
