//! Table `registry_leftovers`: images in our own registry that nobody needs any more and that are still to be removed there.

use super::{Conn, Result, Store};

/// Notes an image, in the transaction that ends its last use.
pub(crate) async fn put(conn: &mut Conn, reference: &str, at: i64) -> Result<()> {
    let query = "INSERT INTO registry_leftovers (reference, created_at) VALUES (?, ?) ON CONFLICT (reference) DO NOTHING";
    sqlx::query(query).bind(reference).bind(at).execute(conn).await.map(|_| ())
}

/// All of them, oldest first.
pub(crate) async fn all(store: &Store) -> Result<Vec<String>> {
    sqlx::query_scalar("SELECT reference FROM registry_leftovers ORDER BY created_at, reference")
        .fetch_all(store.read())
        .await
}

/// Forgets one.
pub(crate) async fn delete(store: &Store, reference: &str) -> Result<()> {
    let mut tx = store.begin().await?;
    let query = sqlx::query("DELETE FROM registry_leftovers WHERE reference = ?");
    query.bind(reference).execute(&mut *tx).await?;
    tx.commit().await
}
