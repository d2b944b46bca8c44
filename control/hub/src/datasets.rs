//! Datasets: made empty or as clones, and let go.

use std::sync::Arc;

use ds_db::{NewDataset, dataset_place};
use ds_domain::{
    CommitId, SnapshotId, VolumeId,
    api::{Access, CloneDataset, Commit, CreateDataset, Dataset, Event, User},
};
use uuid::Uuid;

use crate::{clock::now_ms, core::Core, http::Problem, workspace::check_new_name};

impl Core {
    /// Makes an empty dataset. Goes on if whoever asked hangs up, so that no volume is left that belongs to none.
    pub(crate) async fn create_dataset(
        self: &Arc<Self>,
        user: &User,
        request: CreateDataset,
    ) -> Result<Dataset, Problem> {
        self.make_dataset(user, request, None).await
    }

    /// Makes a dataset that begins with what a commit of another has. No byte is copied.
    pub(crate) async fn clone_dataset(
        self: &Arc<Self>,
        user: &User,
        source: &Dataset,
        request: CloneDataset,
    ) -> Result<Dataset, Problem> {
        let commit = match &request.commit {
            Some(id) => self.commit_for(user, id).await?,
            None => self.db.commit(source.head).await?,
        };
        if commit.volume != source.id {
            return Err(Problem::invalid(format!(
                "commit {} is not one of the dataset {}: choose one of its own",
                commit.id, source.name
            )));
        }
        let CloneDataset { name, description, .. } = request;
        self.make_dataset(user, CreateDataset { name, description }, Some(commit)).await
    }

    async fn make_dataset(
        self: &Arc<Self>,
        user: &User,
        request: CreateDataset,
        origin: Option<Commit>,
    ) -> Result<Dataset, Problem> {
        check_new_name("dataset", &request.name)?;
        let (core, user) = (Arc::clone(self), user.clone());
        let made = self.tasks.spawn(async move { core.record_dataset(&user, request, origin).await });
        made.await.expect("making a dataset does not panic, and is not aborted")
    }

    /// First the volume at the store, then everything else in one transaction.
    async fn record_dataset(
        &self,
        user: &User,
        request: CreateDataset,
        origin: Option<Commit>,
    ) -> Result<Dataset, Problem> {
        let (volume, snapshot) = (VolumeId(Uuid::new_v4()), SnapshotId(Uuid::new_v4()));
        let store = self.store_for_request().await?;
        let guid = match &origin {
            Some(commit) => store.clone_volume(volume, snapshot, commit.volume, commit.snapshot).await?,
            None => store.create_volume(volume, snapshot).await?,
        };
        let new = NewDataset {
            volume,
            name: request.name,
            description: request.description,
            owner: user.id,
            commit: CommitId(Uuid::new_v4()),
            snapshot,
            guid: guid.0,
            cloned_from: origin.map(|commit| commit.id),
            created_ms: now_ms(),
        };
        if let Err(error) = self.db.create_dataset(&new).await {
            return Err(self.creation_failed(volume, error).await);
        }
        tracing::info!(volume.id = %volume, user.id = %user.id, "made a dataset");
        self.events.publish(Event::Commit { project: dataset_place(volume), id: new.commit });
        Ok(self.db.dataset(user, &volume.to_string()).await?)
    }

    /// A dataset by name or id, in which `user` has at least `need`.
    pub(crate) async fn dataset_for(
        &self,
        user: &User,
        id_or_name: &str,
        need: Access,
    ) -> Result<Dataset, Problem> {
        let dataset = self.db.dataset(user, id_or_name).await?;
        crate::access::check("dataset", dataset.access, need)?;
        Ok(dataset)
    }
}
