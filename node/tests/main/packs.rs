//! Promises of packs.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

use flair_node::home::Home;
use flair_node::store::{Batch, Content, Listing, Options, Packed, Source, Store, StoreError};
use flair_tensors::pack::Listed;
use flair_tensors::{DType, Digest, TensorId};
use tempfile::tempdir;

use crate::store::{noise, open};

/// A model in memory: name, dtype, raw bytes.
#[derive(Clone)]
struct Model(Vec<(String, DType, Vec<u8>)>);

impl Source for Model {
    fn read(&self, tensor: usize, offset: u64, out: &mut [u8]) -> io::Result<()> {
        out.copy_from_slice(&self.0[tensor].2[offset as usize..offset as usize + out.len()]);
        Ok(())
    }
}

impl Model {
    /// Weights as training gives them: f32 of small size.
    fn new(seed: u64) -> Self {
        let weights = |seed, count: usize| -> Vec<u8> {
            noise(seed, count * 4)
                .as_chunks::<4>()
                .0
                .iter()
                .flat_map(|bytes| ((u32::from_le_bytes(*bytes) as f32 / 4e9 - 0.5) * 0.1).to_le_bytes())
                .collect()
        };
        Self(vec![
            ("embed".into(), DType::F32, weights(seed, 700_000)),
            ("bias".into(), DType::F32, weights(seed + 1, 64)),
            ("frozen".into(), DType::F32, weights(77, 300_000)),
            ("counter".into(), DType::I64, 5_i64.to_le_bytes().to_vec()),
            ("empty".into(), DType::F32, Vec::new()),
            ("noise".into(), DType::U8, noise(seed + 2, 100_000)),
            ("tied".into(), DType::F32, weights(seed, 700_000)),
            ("tiny".into(), DType::F32, weights(seed + 1, 64)),
        ])
    }

    /// The model after a step of training: every weight moves by a thousandth.
    fn step(&self) -> Self {
        let mut next = self.clone();
        for (name, dtype, bytes) in &mut next.0 {
            if *dtype == DType::F32 && name != "frozen" {
                for chunk in bytes.as_chunks_mut::<4>().0 {
                    *chunk = (f32::from_le_bytes(*chunk) * 1.001).to_le_bytes();
                }
            }
        }
        next
    }

    fn listed(&self) -> Vec<Listed> {
        self.0.iter().map(|(_, dtype, bytes)| (TensorId::of(bytes), *dtype, bytes.len() as u64)).collect()
    }

    fn listings(&self) -> Vec<Listing> {
        self.0
            .iter()
            .map(|(name, dtype, bytes)| Listing {
                name: name.clone(),
                tensor: TensorId::of(bytes),
                dtype: *dtype,
                length: bytes.len() as u64,
            })
            .collect()
    }

    fn contents(&self, base: Option<&Self>) -> Vec<Content> {
        self.0
            .iter()
            .enumerate()
            .map(|(number, (name, dtype, bytes))| Content {
                name: name.clone(),
                tensor: None,
                dtype: *dtype,
                length: bytes.len() as u64,
                base: base.map(|base| TensorId::of(&base.0[number].2)),
            })
            .collect()
    }

    async fn write(&self, store: &Store, base: Option<&Self>) -> Packed {
        let hold = store.hold();
        let listed = base.map(Self::listed).unwrap_or_default();
        let packed =
            store.write_pack(&hold, self.contents(base), &listed, Arc::new(self.clone())).await.unwrap();
        assert_eq!(packed.tensors, self.listed().iter().map(|(tensor, ..)| *tensor).collect::<Vec<_>>());
        store.publish(Batch::new(Digest::of(b"repository")).refer(packed.root)).await.unwrap();
        packed
    }

    async fn assert_in(&self, store: &Store) {
        let (store, model) = (store.clone(), self.clone());
        tokio::task::spawn_blocking(move || {
            for (name, _, bytes) in &model.0 {
                let tensor = TensorId::of(bytes);
                let mut out = Vec::new();
                store.write_tensors([tensor], &mut out).unwrap();
                assert!(out == *bytes, "{name}");
                assert_eq!(store.tensor_length(tensor).unwrap(), bytes.len() as u64);
                let mut block = Vec::new();
                store.tensor_block(tensor, 1, &mut block).unwrap();
                assert_eq!(block, bytes.get(1 << 20..bytes.len().min(2 << 20)).unwrap_or_default());
            }
        })
        .await
        .unwrap();
    }
}

/// Brings the blobs of a pack from one store to another.
async fn carry(from: &Store, to: &Store, packed: &Packed) {
    let hold = to.hold();
    for blob in packed.blobs.iter().chain([&packed.root]) {
        to.add_bytes(&hold, from.read_all(*blob, 1 << 30).await.unwrap()).await.unwrap();
    }
    // As after a fetch: nothing is held but what the caller holds.
    std::mem::forget(hold);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_travels_as_one_full_pack_and_small_deltas() {
    let folder = tempdir().unwrap();
    let (a, b) = (open(&folder.path().join("a")).await, open(&folder.path().join("b")).await);
    let first = Model::new(1);
    let second = first.step();
    let third = second.step();
    let packs = [
        first.write(&a, None).await,
        second.write(&a, Some(&first)).await,
        third.write(&a, Some(&second)).await,
    ];
    for model in [&first, &second, &third] {
        model.assert_in(&a).await;
    }
    assert!(packs[1].added < packs[0].added / 2, "{} of {}", packs[1].added, packs[0].added);

    let hold = b.hold();
    let early = b.adopt_pack(&hold, packs[0].root, &first.listings(), &[]).await;
    assert!(matches!(early, Err(StoreError::Absent { .. })), "{early:?}");
    carry(&a, &b, &packs[1]).await;
    let early = b.adopt_pack(&hold, packs[1].root, &second.listings(), &first.listed()).await.unwrap_err();
    assert!(early.to_string().contains("fetch its pack first"), "{early}");
    let bases: [&[Listed]; 3] = [&[], &first.listed(), &second.listed()];
    for ((packed, model), base) in packs.iter().zip([&first, &second, &third]).zip(bases) {
        carry(&a, &b, packed).await;
        let adopted = b.adopt_pack(&hold, packed.root, &model.listings(), base).await.unwrap();
        assert_eq!(adopted.blobs, packed.blobs);
        b.publish(Batch::new(Digest::of(b"repository")).refer(packed.root)).await.unwrap();
        model.assert_in(&b).await;
    }
    // The same model on the same base makes the same pack on another machine.
    let again = third.write(&b, Some(&second)).await;
    assert_eq!((again.root, again.added), (packs[2].root, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_does_not_depend_on_how_many_threads_write_it() {
    let folder = tempdir().unwrap();
    let weights = |seed, count: usize| noise(seed, count * 4);
    let first = Model(vec![
        ("large".into(), DType::F32, weights(1, 2_400_000)),
        ("small".into(), DType::F32, weights(2, 64)),
        ("middle".into(), DType::F32, weights(3, 600_000)),
        ("other".into(), DType::F32, weights(4, 300_000)),
    ]);
    let mut second = first.clone();
    for (number, (_, _, bytes)) in second.0.iter_mut().enumerate() {
        // Here few weights change, there all, in whole blocks none.
        let step = [4000, 4, 4, 40][number];
        for at in (0..bytes.len()).step_by(step).filter(|at| at >> 20 != 1) {
            bytes[at] ^= 1;
        }
    }
    let mut roots = Vec::new();
    for threads in [1, 2, 5] {
        let home = Home::open(folder.path().join(threads.to_string())).unwrap();
        let options = Options { threads: NonZeroUsize::new(threads).unwrap(), ..Options::default() };
        let store = Store::open_with(&home, options).await.unwrap();
        roots.push((first.write(&store, None).await.root, second.write(&store, Some(&first)).await.root));
        second.assert_in(&store).await;
        let all = second.clone();
        tokio::task::spawn_blocking(move || {
            let mut out = Vec::new();
            store.write_tensors(all.listed().iter().map(|(tensor, ..)| *tensor), &mut out).unwrap();
            assert!(out == all.0.iter().flat_map(|(_, _, bytes)| bytes.clone()).collect::<Vec<_>>());
        })
        .await
        .unwrap();
    }
    assert!(roots.iter().all(|root| *root == roots[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_keeps_the_packs_it_needs() {
    let folder = tempdir().unwrap();
    let store = open(folder.path()).await;
    let first = Model::new(1);
    let second = first.step();
    let full = first.write(&store, None).await;
    let delta = second.write(&store, Some(&first)).await;
    let repository = Digest::of(b"repository");
    store.publish(Batch::new(repository).release(full.root)).await.unwrap();
    store.sweep().await.unwrap();
    second.assert_in(&store).await;
    first.assert_in(&store).await;
    for blob in [full.root, full.blobs[1], delta.root, delta.blobs[0]] {
        assert_eq!(store.owners(blob).unwrap(), [repository].into(), "members may have it");
    }
    let files: u64 = std::fs::read_dir(store.folder().join("blobs/data"))
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    let bytes = store.bytes(repository).await.unwrap();
    assert!(bytes >= files && bytes < files + 10_000, "{bytes} of {files}");
    store.close().await;
    drop(store);
    let store = open(folder.path()).await;
    assert!(store.missing().is_empty());
    second.assert_in(&store).await;
    store.publish(Batch::new(repository).release(delta.root)).await.unwrap();
    store.sweep().await.unwrap();
    let check = store.clone();
    tokio::task::spawn_blocking(move || {
        for (tensor, ..) in second.listed() {
            assert!(!check.has_tensor(tensor).unwrap());
            assert!(matches!(check.tensor(tensor), Err(StoreError::Unheld { .. })));
        }
    })
    .await
    .unwrap();
    assert!(!store.has(full.blobs[1]).await.unwrap());
    assert!(store.owners(full.blobs[1]).unwrap().is_empty());
    assert_eq!(store.bytes(repository).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tensor_that_changes_while_it_is_read_ends_the_pack() {
    let folder = tempdir().unwrap();
    let store = open(folder.path()).await;
    let model = Model::new(1);
    let mut contents = model.contents(None);
    contents[0].tensor = Some(TensorId::of(b"another"));
    let error = store.write_pack(&store.hold(), contents, &[], Arc::new(model)).await.unwrap_err();
    assert!(matches!(&error, StoreError::Changed { name, .. } if name == "embed"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_not_the_model_is_refused_by_name() {
    let folder = tempdir().unwrap();
    let (a, b) = (open(&folder.path().join("a")).await, open(&folder.path().join("b")).await);
    let model = Model::new(1);
    let packed = model.write(&a, None).await;
    carry(&a, &b, &packed).await;
    let hold = b.hold();

    // A model that lists another tensor.
    let mut listings = model.listings();
    listings[0].tensor = TensorId::of(b"another");
    assert!(matches!(b.adopt_pack(&hold, packed.root, &listings, &[]).await, Err(StoreError::Pack { .. })));

    // Blobs that hold other bytes than the index says: every byte of the shared blob, one after the other.
    let shared = a.read_all(packed.blobs[1], 1 << 20).await.unwrap();
    for place in (0..shared.len()).step_by(17) {
        let mut bytes = shared.clone();
        bytes[place] ^= 0x40;
        let mut blobs = packed.blobs.clone();
        blobs[1] = b.add_bytes(&hold, bytes).await.unwrap();
        let sequence = blobs.iter().flat_map(|blob| blob.to_bytes()).collect();
        let root = b.add_bytes(&hold, sequence).await.unwrap();
        let error = b.adopt_pack(&hold, root, &model.listings(), &[]).await.unwrap_err();
        let StoreError::Tensor { name, .. } = &error else { panic!("{error}") };
        assert!(["bias", "counter", "tiny", "empty"].contains(&name.as_str()), "{error}");
    }

    // A blob too few, one too many, one of another size, no index at all.
    for change in [
        |blobs: &mut Vec<Digest>, _: Digest| blobs.truncate(blobs.len() - 1),
        |blobs: &mut Vec<Digest>, other: Digest| blobs.push(other),
        |blobs: &mut Vec<Digest>, other: Digest| blobs[1] = other,
        |blobs: &mut Vec<Digest>, other: Digest| blobs[0] = other,
    ] {
        let other = b.add_bytes(&hold, noise(3, 40_000)).await.unwrap();
        let mut blobs = packed.blobs.clone();
        change(&mut blobs, other);
        let sequence = blobs.iter().flat_map(|blob| blob.to_bytes()).collect();
        let root = b.add_bytes(&hold, sequence).await.unwrap();
        let error = b.adopt_pack(&hold, root, &model.listings(), &[]).await.unwrap_err();
        assert!(matches!(error, StoreError::Pack { .. } | StoreError::Tensor { .. }), "{error}");
    }
    let root = b.add_bytes(&hold, noise(4, 33)).await.unwrap();
    assert!(matches!(b.adopt_pack(&hold, root, &[], &[]).await, Err(StoreError::Pack { .. })));

    // Nothing of all that was noted.
    let check = b.clone();
    let tensor = model.listed()[0].0;
    assert!(!tokio::task::spawn_blocking(move || check.has_tensor(tensor).unwrap()).await.unwrap());
    b.adopt_pack(&hold, packed.root, &model.listings(), &[]).await.unwrap();
    model.assert_in(&b).await;
}
