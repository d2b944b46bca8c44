//! The first start: a user who can make all others.

use std::path::Path;

use ds_db::Db;
use ds_domain::{UserId, api::User};
use uuid::Uuid;

use crate::{
    auth::{password::Passwords, secret::random_password},
    clock::now_ms,
    error::Error,
    state::write_secret,
};

const ADMIN: &str = "admin";

/// Makes the user `admin` if there is no user at all. The password is in the file before the user is in the
/// database, so that no crash leaves a user whose password nobody knows.
pub(crate) async fn make_first_admin(
    db: &Db,
    passwords: &Passwords,
    password_file: &Path,
) -> Result<(), Error> {
    if !db.users().await?.is_empty() {
        return Ok(());
    }
    let password = random_password();
    write_secret(password_file, format!("{password}\n").as_bytes())?;
    let hash = passwords.hash(password).await;
    let user =
        User { id: UserId(Uuid::new_v4()), username: ADMIN.to_owned(), admin: true, created_ms: now_ms() };
    match db.create_user(&user, &hash).await {
        Ok(()) => {
            let path = password_file.display();
            tracing::info!(user = ADMIN, %path, "made the first user; its password is in the file");
            Ok(())
        }
        // Another hub on the same database was faster: its file has the password.
        Err(ds_db::Error::Conflict(_)) => {
            let _ = std::fs::remove_file(password_file);
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
