//! Where a container's image comes from: this machine if it has it, else its registry.

use std::collections::HashMap;

use bollard::{models::CreateImageInfo, query_parameters::CreateImageOptionsBuilder};
use ds_proto::v1::TransferAmount;
use futures_util::StreamExt;

use super::{Docker, failed, status_of};
use crate::error::{Error, Result};

impl Docker {
    /// Makes sure that the image is on this machine and returns its digest: `name@sha256:...` as its registry knows
    /// it, else Docker's id of it. `progress` is called if the image has to be pulled: at the start, and as it gets on.
    pub(crate) async fn image(
        &self,
        image: &str,
        progress: impl Fn(Option<TransferAmount>),
    ) -> Result<String> {
        check_name(image)?;
        if let Some(digest) = self.local_image(image).await? {
            return Ok(digest);
        }
        progress(None);
        self.pull(image, progress).await?;
        self.local_image(image).await?.ok_or_else(|| {
            Error::Image(format!(
                "image {image} was pulled and is gone again: was it removed? Start the task again"
            ))
        })
    }

    async fn local_image(&self, image: &str) -> Result<Option<String>> {
        let inspected = match self.client.inspect_image(image).await {
            Err(e) if status_of(&e) == Some(404) => return Ok(None),
            other => other.map_err(|e| failed(format!("inspect image {image}"), e))?,
        };
        let digest = inspected.repo_digests.and_then(|digests| digests.into_iter().next());
        Ok(Some(digest.or(inspected.id).unwrap_or_default()))
    }

    async fn pull(&self, image: &str, progress: impl Fn(Option<TransferAmount>)) -> Result<()> {
        let options = CreateImageOptionsBuilder::default().from_image(&with_tag(image)).build();
        let mut steps = self.client.create_image(Some(options), None, None);
        let mut layers = Layers::default();
        while let Some(step) = steps.next().await {
            let step = step.map_err(|e| match failed(format!("pull image {image}"), e) {
                Error::Docker { source, .. } => Error::Image(why_not_pulled(image, &source.to_string())),
                other => other,
            })?;
            if let Some(amount) = layers.add(step) {
                progress(Some(amount));
            }
        }
        Ok(())
    }
}

/// The name goes into the path of a request: nothing in it may change which request that is.
fn check_name(image: &str) -> Result<()> {
    let plain = image.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b));
    let starts_well = image.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if plain && starts_well && !image.contains("..") && !image.contains("//") {
        return Ok(());
    }
    Err(Error::Image(format!(
        "{image:?} is no image name: write it as in `python:3.11` or `registry.example/team/image:tag`"
    )))
}

/// Without a tag Docker would pull all of them.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if image.contains('@') || last.contains(':') { image.to_owned() } else { format!("{image}:latest") }
}

fn why_not_pulled(image: &str, words: &str) -> String {
    let words = words.replace('\n', " ");
    let unknown =
        ["not found", "manifest unknown", "does not exist", "pull access denied", "denied:", "unauthorized"];
    if unknown.iter().any(|sign| words.contains(sign)) {
        return format!(
            "image {image} is neither on this runner nor in its registry, or the registry wants a login: check the name, \
             build it on the runner (`docker build -t {image} .`) or log in there (`docker login`). Docker says: {words}"
        );
    }
    format!(
        "image {image} is not on this runner and could not be pulled: check that the runner can reach its registry, or \
         load the image there (`docker load`). Docker says: {words}"
    )
}

/// Sums up what Docker says of each layer.
#[derive(Debug, Default)]
struct Layers {
    /// Bytes so far and in all, by layer.
    bytes: HashMap<String, (u64, u64)>,
}

impl Layers {
    /// All downloads, as far as Docker has begun them; a layer that it begins later adds to the total.
    fn add(&mut self, step: CreateImageInfo) -> Option<TransferAmount> {
        let detail = step.progress_detail?;
        let (current, total) = (detail.current?, detail.total?);
        // Only downloads count: unpacking says the same bytes again.
        if step.status.as_deref() != Some("Downloading") {
            return None;
        }
        self.bytes.insert(step.id?, (current.try_into().ok()?, total.try_into().ok()?));
        let (done_bytes, total) =
            self.bytes.values().fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
        Some(TransferAmount { done_bytes, total_bytes: Some(total) })
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    #[test]
    fn a_name_without_a_tag_gets_one() {
        assert_eq!(with_tag("python"), "python:latest");
        assert_eq!(with_tag("host:5000/team/image"), "host:5000/team/image:latest");
        assert_eq!(with_tag("python:3.11"), "python:3.11");
        assert_eq!(with_tag("python@sha256:00"), "python@sha256:00");
    }

    #[test]
    fn a_name_cannot_become_another_request() {
        for bad in ["", "../containers", "a/../b", "a?b", "a b", "-x", "a#b", "a%2e", "ä", "a//b"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        for good in ["python:3.11-slim", "host:5000/a/b@sha256:0f", "a_b"] {
            check_name(good).unwrap();
        }
    }

    #[test]
    fn layers_are_summed_up() {
        let mut layers = Layers::default();
        let step = |id: &str, status: &str, current| CreateImageInfo {
            id: Some(id.into()),
            status: Some(status.into()),
            progress_detail: Some(ProgressDetail { current: Some(current), total: Some(20_000_000) }),
            ..CreateImageInfo::default()
        };
        let amount = |done_bytes, total| Some(TransferAmount { done_bytes, total_bytes: Some(total) });
        assert_eq!(layers.add(step("a", "Downloading", 5_000_000)), amount(5_000_000, 20_000_000));
        assert_eq!(layers.add(step("b", "Downloading", 7_000_000)), amount(12_000_000, 40_000_000));
        assert_eq!(layers.add(step("a", "Extracting", 1)), None);
    }

    #[test]
    fn unknown_and_unreachable_are_told_apart() {
        assert!(why_not_pulled("x", "manifest unknown").contains("check the name"));
        assert!(why_not_pulled("x", "dial tcp: i/o timeout").contains("reach its registry"));
    }
}
