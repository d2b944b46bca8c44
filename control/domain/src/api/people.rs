//! People: logins, users, API keys.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::UserId;

/// `POST /api/v1/login`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LoginRequest {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
}

/// A session, or a new API key: the only time its token is seen.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Goes into `Authorization: Bearer <token>`.
    pub token: String,
    /// When it stops working; absent for API keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<i64>,
    /// Whose it is.
    pub user: User,
}

/// A person with a login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// Id.
    pub id: UserId,
    /// Unique; lower-case letters, digits, `-`, `_`, `.`.
    pub username: String,
    /// May do everything, such as creating users.
    pub admin: bool,
    /// When it was created.
    pub created_ms: i64,
}

/// `POST /api/v1/users` (admins).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreateUser {
    /// Unique; lower-case letters, digits, `-`, `_`, `.`.
    pub username: String,
    /// At least 8 characters. Absent: the hub makes one and returns it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// May do everything.
    #[serde(default)]
    pub admin: bool,
}

/// Answer to [`CreateUser`].
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedUser {
    /// The new user.
    pub user: User,
    /// Present if the hub made it; not shown again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// `PUT /api/v1/users/{username}/password` (the user, or an admin). All sessions of the user end.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ChangePassword {
    /// The password as it is, which whoever changes their own has to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// At least 8 characters. Absent: the hub makes one and returns it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// Answer to [`ChangePassword`].
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChangedPassword {
    /// Present if the hub made it; not shown again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// Answer to `DELETE /api/v1/users/{username}` (admins).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RemovedUser {
    /// Names of the projects and datasets that had no other owner: they are the removing admin's now.
    pub inherited: Vec<String>,
}

/// `POST /api/v1/keys`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreateKey {
    /// What it is for.
    pub name: String,
}

/// An API key, without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ApiKey {
    /// Id.
    pub id: uuid::Uuid,
    /// What it is for.
    pub name: String,
    /// When it was created.
    pub created_ms: i64,
    /// When it was last used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_ms: Option<i64>,
}
