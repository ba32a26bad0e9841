//! Repositories by their name: read from the cache, downloaded from a hub on loopback, and used in a session
//! and on the command line.

mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use assert_cmd::Command;
use das_cuda::assets::SHAPES_FILES;
use das_cuda::hash::sha256;
use das_cuda::hub::{Hub, Progress, Settings, Snapshot, Token};
use das_cuda::{Device, Error, ErrorKind, Result, Session};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use server::{COMMIT, Fault, REPOSITORY, Server};
use tempfile::TempDir;

const LARGE: &str = "sub/large.safetensors";
const SECRET: &str = "hf_secret";

/// A repository with a large and a small file, a cache and its hub.
struct World {
    server: Server,
    dir: TempDir,
    large: Vec<u8>,
}

impl World {
    fn new() -> World {
        let large: Vec<u8> =
            (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let server =
            Server::new([(LARGE, large.clone()), ("config.json", b"{}".to_vec()), ("other.bin", vec![1])]);
        World { server, dir: tempfile::tempdir().unwrap(), large }
    }

    fn settings(&self) -> Settings {
        Settings {
            cache: self.dir.path().to_path_buf(),
            endpoint: self.server.address.clone(),
            token: Token::new(SECRET),
            offline: false,
        }
    }

    fn get(&self, name: &str) -> Result<PathBuf> {
        Hub::new(self.settings()).locate(Path::new(name), &missing)
    }

    fn offline(&self, name: &str) -> Result<PathBuf> {
        Hub::new(Settings { offline: true, ..self.settings() }).locate(Path::new(name), &missing)
    }

    /// The error of a download, which names the repository and never the token.
    fn fails(&self, name: &str, says: &[&str]) -> Error {
        let error = self.get(name).expect_err(name);
        let text = format!("{error:?}");
        assert!(!text.contains(SECRET), "{text}");
        for part in says.iter().chain(&["fix:", name]) {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        error
    }

    fn blobs(&self) -> PathBuf {
        self.dir.path().join("models--tiny--model/blobs")
    }

    fn whole(&self, folder: &Path) {
        assert_eq!(fs::read(folder.join(LARGE)).unwrap(), self.large);
        assert_eq!(fs::read(folder.join("config.json")).unwrap(), b"{}");
        let left: Vec<_> = fs::read_dir(self.blobs()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().contains("incomplete")), "{left:?}");
    }
}

/// What is needed of the repository: the small file, then the large one.
fn missing(Snapshot { folder, .. }: Snapshot<'_>) -> Result<Vec<String>> {
    let files = ["config.json", LARGE].into_iter().find(|file| !folder.join(file).is_file());
    Ok(files.map(String::from).into_iter().collect())
}

#[test]
fn a_repository_is_downloaded_once_into_the_layout_of_other_programs() {
    let world = World::new();
    let folder = world.get(REPOSITORY).unwrap();
    world.whole(&folder);
    let repository = world.dir.path().join("models--tiny--model");
    assert_eq!(folder, repository.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(repository.join("refs/main")).unwrap(), COMMIT);
    let hash = sha256(&world.large);
    assert!(repository.join("blobs").join(&hash).is_file());
    #[cfg(unix)]
    {
        let link = fs::read_link(folder.join(LARGE)).unwrap();
        assert_eq!(link, Path::new("../../../blobs").join(&hash));
        assert_eq!(das_cuda::hub::hash_of(&folder.join(LARGE)), Some(hash));
    }
    assert!(!folder.join("other.bin").exists());
    let seen = world.server.seen();
    assert!(seen.iter().all(|s| s.authorization.is_some() != s.large), "{seen:?}");
    assert!(seen.iter().any(|s| s.large && s.method == "GET"), "{seen:?}");
    // Whatever is there is used without asking, under each name of the revision.
    for name in [REPOSITORY.to_string(), format!("{REPOSITORY}@{COMMIT}")] {
        assert_eq!(world.get(&name).unwrap(), folder);
        assert_eq!(world.offline(&name).unwrap(), folder);
    }
    assert!(world.server.seen().is_empty());
}

#[test]
fn one_file_is_downloaded_by_its_name() {
    let world = World::new();
    let file = world.get(&format!("{REPOSITORY}@main/{LARGE}")).unwrap();
    assert_eq!(fs::read(&file).unwrap(), world.large);
    assert!(!world.dir.path().join(format!("models--tiny--model/snapshots/{COMMIT}/config.json")).exists());
    world.fails(&format!("{REPOSITORY}/absent.safetensors"), &["no file absent.safetensors", LARGE]);
    assert_eq!(fs::read(world.get(&format!("{REPOSITORY}/other.bin")).unwrap()).unwrap(), [1]);
}

#[test]
fn a_download_goes_on_where_it_was_cut() {
    let world = World::new();
    world.server.fault(LARGE, Fault::Cut(1_000_000));
    world.whole(&world.get(REPOSITORY).unwrap());
    let ranges: Vec<_> = world.server.seen().into_iter().filter(|s| s.large).map(|s| s.range).collect();
    assert_eq!(ranges, [None, Some("bytes=1000000-".into())]);

    // By another process; and by a server that knows no ranges.
    for fault in [None, Some(Fault::NoRanges)] {
        let world = World::new();
        let part = format!("{}.incomplete", sha256(&world.large));
        fs::create_dir_all(world.blobs()).unwrap();
        fs::write(world.blobs().join(part), &world.large[..2_000_000]).unwrap();
        fault.into_iter().for_each(|fault| world.server.fault(LARGE, fault));
        world.whole(&world.get(REPOSITORY).unwrap());
        assert!(world.server.seen().iter().any(|s| s.range.as_deref() == Some("bytes=2000000-")));
    }
}

#[test]
fn a_listener_ends_a_download_that_goes_on_later() {
    struct Stop(AtomicU64);
    impl Progress for Stop {
        fn at(&self, file: &str, bytes: u64, total: u64) -> Result<()> {
            assert!(bytes <= total);
            match file == LARGE && self.0.fetch_max(bytes, Ordering::Relaxed) > 0 {
                true => Err(Error::new(ErrorKind::Interrupted, "stop")),
                false => Ok(()),
            }
        }
    }
    let world = World::new();
    let hub = Hub::new(world.settings()).with_progress(Stop(AtomicU64::new(0)));
    let error = hub.locate(Path::new(REPOSITORY), &missing).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    let part = world.blobs().join(format!("{}.incomplete", sha256(&world.large)));
    let there = fs::metadata(part).unwrap().len();
    assert!(there > 0, "nothing was kept");
    let offline = world.offline(REPOSITORY).unwrap_err().to_string();
    assert!(
        offline.contains(LARGE) && offline.contains("only a part") && offline.contains("HF_HUB_OFFLINE"),
        "{offline}"
    );
    world.server.seen();
    world.whole(&world.get(REPOSITORY).unwrap());
    assert!(world.server.seen().iter().any(|s| s.range.as_deref() == Some(&*format!("bytes={there}-"))));
}

/// As another process does where locks are not honoured.
#[test]
fn a_file_that_somebody_else_writes_to_never_gets_its_name() {
    struct Write(PathBuf);
    impl Progress for Write {
        fn at(&self, file: &str, bytes: u64, total: u64) -> Result<()> {
            if file == LARGE && bytes == total {
                let mut part = fs::OpenOptions::new().append(true).open(&self.0).unwrap();
                std::io::Write::write_all(&mut part, b"x").unwrap();
            }
            Ok(())
        }
    }
    let world = World::new();
    let part = world.blobs().join(format!("{}.incomplete", sha256(&world.large)));
    let hub = Hub::new(world.settings()).with_progress(Write(part));
    let error = hub.locate(Path::new(REPOSITORY), &missing).unwrap_err().to_string();
    assert!(error.contains(LARGE) && error.contains("there is more than"), "{error}");
    world.whole(&world.get(REPOSITORY).unwrap());
}

#[test]
fn a_wrong_content_never_gets_its_name() {
    let world = World::new();
    world.server.fault(LARGE, Fault::Changed);
    world.fails(REPOSITORY, &[LARGE, "has the hash", &sha256(&world.large)]);
    let left: Vec<_> = fs::read_dir(world.blobs()).unwrap().map(|e| e.unwrap().file_name()).collect();
    // What git names the two bytes of the small file.
    assert_eq!(left, ["9e26dfeeb6e641a33dae4961196235bdb965b21b"], "only the small file is left");
    world.server.fault("config.json", Fault::Changed);
    fs::remove_dir_all(world.blobs()).unwrap();
    world.fails(REPOSITORY, &["config.json", "has the hash", "9e26dfeeb6e641a33dae4961196235bdb965b21b"]);

    // A part of something else is thrown away, and the file fetched whole.
    let world = World::new();
    fs::create_dir_all(world.blobs()).unwrap();
    fs::write(world.blobs().join(format!("{}.incomplete", sha256(&world.large))), [7; 1000]).unwrap();
    world.whole(&world.get(REPOSITORY).unwrap());
}

#[test]
fn refusals_say_what_helps() {
    let world = World::new();
    let gated = [world.server.address.as_str(), "/tiny/model", "accept its terms", "hf auth login"];
    for status in [401, 403] {
        world.server.fault("config.json", Fault::Status(status, "GatedRepo"));
        world.fails(REPOSITORY, &[&gated[..], &["config.json", "gated or private"]].concat());
    }
    world.server.fault("", Fault::Status(401, "RepoNotFound"));
    world.fails(REPOSITORY, &["no such repository, or a private one", "check the name"]);
    let world = World::new();
    world.fails("nobody/nothing", &["there is no such file or folder here", "no such repository"]);
    world.fails(&format!("{REPOSITORY}@v9"), &["no revision v9", "branch, tag or commit"]);
    world.server.fault("config.json", Fault::Circle);
    world.fails(REPOSITORY, &["config.json", "too many redirects"]);
    world.server.fault("config.json", Fault::Once(503));
    world.whole(&world.get(REPOSITORY).unwrap());
}

#[test]
fn without_a_network_the_cache_is_read_and_else_an_error_says_so() {
    let world = World::new();
    let error = world.offline(REPOSITORY).unwrap_err().to_string();
    assert!(error.contains("has no revision main") && error.contains("`offline`"), "{error}");
    assert!(world.server.seen().is_empty());
    // A port where nobody listens any more.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let hub = Hub::new(Settings { endpoint: format!("http://{nobody}"), ..world.settings() });
    let error = hub.locate(Path::new(REPOSITORY), &missing).unwrap_err();
    let text = format!("{error:?}");
    assert!(text.contains("cannot be reached") && text.contains("HTTPS_PROXY"), "{text}");
}

#[test]
fn what_exists_here_is_meant_before_a_repository() {
    let world = World::new();
    for path in ["src/hub", "absent", "./tiny/model", "a/b/c"] {
        assert_eq!(world.get(path).unwrap(), Path::new(path));
    }
    assert!(world.server.seen().is_empty());
}

#[test]
fn processes_that_want_the_same_file_download_it_once() {
    let world = World::new();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| world.get(REPOSITORY).unwrap())).collect();
        all.into_iter().for_each(|one| world.whole(&one.join().unwrap()));
    });
    let seen = world.server.seen();
    assert_eq!(seen.iter().filter(|s| s.large && s.method == "GET").count(), 1, "{seen:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named() {
    let world = World::new();
    fs::create_dir_all(world.blobs()).unwrap();
    let part = world.blobs().join(format!("{}.incomplete", sha256(&world.large)));
    std::os::unix::fs::symlink("/dev/full", part).unwrap();
    let error = world.fails(REPOSITORY, &["the disk is full", "HF_HUB_CACHE"]);
    assert_eq!(error.kind(), ErrorKind::Io);
}

#[test]
fn paths_out_of_the_repository_are_refused() {
    let world = World::new();
    let server = Server::new([("../../evil", b"x".to_vec())]);
    let hub = Hub::new(Settings { endpoint: server.address.clone(), ..world.settings() });
    let error = hub.locate(Path::new(REPOSITORY), &|_| Ok(vec!["../../evil".into()])).unwrap_err();
    assert!(error.to_string().contains("no path below the repository"), "{error}");
}

#[test]
fn a_reward_is_read_from_a_repository_of_towers_and_its_head() {
    let files = SHAPES_FILES.iter().filter_map(|(name, content)| {
        let head = name.starts_with("aesthetic/").then_some("aesthetic.safetensors");
        Some((name.strip_prefix("clip/").or(head)?, content.to_vec()))
    });
    let server = Server::new(files.chain([("other.safetensors", vec![1])]));
    opens_once(&server, &format!("aesthetic:{REPOSITORY}"));
}

#[test]
fn scorers_are_read_from_a_repository_with_what_lies_beside_them() {
    let of = |folder: &str, rewards: &[String]| {
        for reward in rewards {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
            let files = fs::read_dir(folder).unwrap().map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
            });
            opens_once(&Server::new(files.chain([("other.safetensors".into(), vec![1])])), reward);
        }
    };
    let file = format!("imagereward:{REPOSITORY}/ImageReward.safetensors,{REPOSITORY}");
    of("imagereward_tiny", &[format!("imagereward:{REPOSITORY}"), file]);
    of("hpsv2_tiny", &[format!("hpsv2:{REPOSITORY}")]);
}

/// A reward of the repository opens, and once more without the hub; other files are not fetched.
fn opens_once(server: &Server, reward: &str) {
    let dir = tempfile::tempdir().unwrap();
    let open = |offline| {
        let settings = Settings {
            cache: dir.path().to_path_buf(),
            endpoint: server.address.clone(),
            token: None,
            offline,
        };
        let builder = Session::builder().device(Device::Cpu).hub(Hub::new(settings));
        builder.reward(reward.parse().unwrap()).open()
    };
    let session = open(false).unwrap();
    assert_eq!(session.repositories().len(), 1);
    assert!(server.seen().iter().all(|s| !s.path.contains("other")));
    open(true).unwrap();
    assert!(server.seen().is_empty());
}

/// The embedded model as a repository.
fn shapes() -> Server {
    Server::new(SHAPES_FILES.iter().map(|(name, content)| (*name, content.to_vec())))
}

#[test]
fn a_session_reads_its_model_from_the_hub_and_only_what_it_needs() {
    let dir = tempfile::tempdir().unwrap();
    let server = shapes();
    let settings = Settings {
        cache: dir.path().to_path_buf(),
        endpoint: server.address.clone(),
        token: None,
        offline: false,
    };
    let open = |offline| {
        let hub = Hub::new(Settings { offline, ..settings.clone() });
        let builder = Session::builder().device(Device::Cpu).hub(hub).model(REPOSITORY);
        builder.reward("jpeg".parse().unwrap()).open()
    };
    let session = open(false).unwrap();
    let used = session.repositories();
    assert_eq!(used.len(), 1);
    assert_eq!((&*used[0].name, &*used[0].revision, &*used[0].commit), (REPOSITORY, "main", COMMIT));
    assert_eq!(session.model_name(), REPOSITORY);
    let seen = server.seen();
    assert!(seen.iter().all(|s| !s.path.contains("/clip/") && !s.path.contains("/aesthetic/")), "{seen:?}");
    let name = |file: &str| SHAPES_FILES.iter().find(|(name, _)| *name == file).unwrap().1;
    let hashes = session.folder().hashes().unwrap();
    for hash in hashes {
        assert_eq!(hash.sha256, sha256(name(&hash.path)), "{}", hash.path);
    }
    assert!(hashes.len() > 5);
    open(true).unwrap();
    assert!(server.seen().is_empty());
}

#[test]
fn a_lora_is_found_by_the_name_of_its_repository_or_file() {
    let unet = "unet/diffusion_pytorch_model.safetensors";
    let unet = SHAPES_FILES.iter().find(|(name, _)| *name == unet).unwrap().1;
    let unet = SafeTensors::deserialize(unet).unwrap();
    let (name, view) = unet.iter().find(|(name, _)| name.ends_with("attn2.to_q.weight")).unwrap();
    let layer = format!("unet.{}", name.strip_suffix(".weight").unwrap());
    let &[out, input] = view.shape() else { panic!("{:?}", view.shape()) };
    let zeros = vec![0; 4 * out.max(input)];
    let tensor =
        |dims: [usize; 2]| TensorView::new(Dtype::F32, dims.to_vec(), &zeros[..4 * dims[0] * dims[1]]);
    let tensors = [
        (format!("{layer}.lora_A.weight"), tensor([1, input]).unwrap()),
        (format!("{layer}.lora_B.weight"), tensor([out, 1]).unwrap()),
    ];
    let lora = safetensors::serialize(tensors, None).unwrap();
    let files = ["pytorch_lora_weights.safetensors", "style.safetensors"].map(|name| (name, lora.clone()));
    let server = Server::new(files);
    let file = format!("{REPOSITORY}/style.safetensors");
    for (path, fetched) in [(REPOSITORY, "pytorch_lora"), (&*file, "style")] {
        let dir = tempfile::tempdir().unwrap();
        let settings = nothing_kept(&dir, &server);
        let builder = Session::builder().device(Device::Cpu).hub(Hub::new(settings)).lora(path, 0.5);
        let session = builder.reward("jpeg".parse().unwrap()).open().unwrap();
        assert_eq!(session.repositories().len(), 1);
        let seen = server.seen();
        let weights = || seen.iter().filter(|s| s.path.contains("safetensors"));
        assert!(weights().count() > 0 && weights().all(|s| s.path.contains(fetched)), "{seen:?}");
    }
}

/// An empty cache, filled from `server`.
fn nothing_kept(cache: &tempfile::TempDir, server: &Server) -> Settings {
    Settings {
        cache: cache.path().to_path_buf(),
        endpoint: server.address.clone(),
        token: None,
        offline: false,
    }
}

#[test]
fn an_embedding_is_found_by_the_name_of_its_repository_or_file() {
    let values = [0; 4 * 128];
    let tensor = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![128], &values).unwrap();
    let learned = safetensors::serialize([("<odd>", tensor)], None).unwrap();
    let files = ["learned_embeds.safetensors", "other.safetensors"].map(|name| (name, learned.clone()));
    let server = Server::new(files);
    let file = format!("<other>={REPOSITORY}/other.safetensors");
    for (given, name, fetched) in [(REPOSITORY, "<odd>", "learned_embeds"), (&*file, "<other>", "other")] {
        let dir = tempfile::tempdir().unwrap();
        let settings = nothing_kept(&dir, &server);
        let builder = Session::builder().device(Device::Cpu).hub(Hub::new(settings));
        let builder = builder.embedding(given.parse().unwrap()).reward("jpeg".parse().unwrap());
        let session = builder.open().unwrap();
        assert_eq!(session.folder().embeddings()[0].name(), name);
        assert_eq!(session.repositories().len(), 1);
        let seen = server.seen();
        let weights = || seen.iter().filter(|s| s.path.contains("safetensors"));
        assert!(weights().count() > 0 && weights().all(|s| s.path.contains(fetched)), "{seen:?}");
    }
}

#[test]
fn the_command_line_downloads_plans_and_records() {
    let dir = tempfile::tempdir().unwrap();
    let server = shapes();
    let run = |command: &str, more: &[&str]| {
        let mut program = Command::cargo_bin("das-cuda").unwrap();
        program.current_dir(dir.path()).env("HF_ENDPOINT", &server.address);
        program.env("HF_HUB_CACHE", dir.path().join("cache")).env("HF_TOKEN", SECRET);
        program.env_remove("HF_HUB_OFFLINE");
        let what = ["-p", "a star", "-m", REPOSITORY, "--reward", "jpeg", "--proposal", "bootstrap"];
        program.arg(command).args(what).args(["--particles", "2", "--steps", "2", "--device", "cpu"]);
        program.args(more).assert()
    };
    let refused = run("sample", &["--offline"]).failure().code(3);
    let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(said.contains(&format!("error: -m: {REPOSITORY}: ")) && said.contains("--offline"), "{said}");
    assert!(server.seen().is_empty());
    let done = run("sample", &["-o", "out"]).success();
    let said = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
    assert!(said.contains("downloading unet/diffusion_pytorch_model.safetensors"), "{said}");
    let record = fs::read_to_string(dir.path().join("out/0000-a-star/run.json")).unwrap();
    assert!(!record.contains(SECRET) && !said.contains(SECRET));
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["model"], REPOSITORY);
    let repository = serde_json::json!({"name": REPOSITORY, "revision": "main", "commit": COMMIT});
    assert_eq!(record["repositories"], serde_json::json!([repository]));
    server.seen();
    run("plan", &["--offline"]).success();
    assert!(server.seen().is_empty());
}
