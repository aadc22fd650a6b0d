import { createHash } from "node:crypto"
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { hubClient } from "../src/hub/client.ts"
import { showFetching } from "../src/hub/fetching.ts"
import { locate } from "../src/hub/locate.ts"
import { parseRepo } from "../src/hub/repo.ts"
import { type HubSettings, hubSettings } from "../src/hub/settings.ts"
import { commit, gitHash, type HubServer, startHub } from "./hub-server.ts"
import { finish, makeWorkplace, peftJson, start, type Workplace } from "./run-peft.ts"

const weights = Buffer.from(Uint8Array.from({ length: 300_000 }, (_, i) => (i * 7919) >> 3))
const text = (value: unknown): Buffer => Buffer.from(typeof value === "string" ? value : JSON.stringify(value))
const shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
const repos = {
  "org/tiny": {
    "README.md": text("# tiny"),
    "config.json": text({ model_type: "llama" }),
    "model.safetensors": weights,
    "pytorch_model.bin": text("pickle"),
    "tokenizer.json": text("{}"),
    "onnx/model.onnx": text("onnx"),
  },
  "org/sharded": {
    "config.json": text({}),
    "model.safetensors.index.json": text({ weight_map: { a: shards[0], b: shards[1], c: shards[1] } }),
    [shards[0] as string]: weights.subarray(0, 1000),
    [shards[1] as string]: weights.subarray(1000, 3000),
  },
  "org/evil": {
    "config.json": text({}),
    "model.safetensors.index.json": text({ weight_map: { a: "../../../escaped.safetensors" } }),
  },
  "org/adapter": { "adapter_config.json": text({ peft_type: "LORA" }), "adapter_model.safetensors": weights },
  "org/pickled": { "config.json": text({}), "pytorch_model.bin": text("pickle") },
}

let hub: HubServer
let cache: string
let settings: HubSettings
const lines: string[] = []
const options = (more: Partial<HubSettings> = {}) => ({
  settings: { ...settings, ...more },
  stream: { write: (line: string) => lines.push(line) },
})

beforeAll(async () => {
  hub = await startHub({ repos, secret: { name: "org/secret", token: "right" } })
})
afterAll(() => hub.close())
beforeEach(() => {
  cache = mkdtempSync(join(tmpdir(), "peft-hub-"))
  settings = { endpoint: hub.url, cache, offline: false, xet: true, retryMs: 1 }
  lines.length = 0
  hub.asked.length = 0
  hub.breaks.length = 0
})
afterEach(() => rmSync(cache, { recursive: true, force: true }))

const blobs = (name = "tiny"): string => join(cache, `models--org--${name}`, "blobs")

describe("fetching", () => {
  it("what a model needs and nothing else, laid out as Python lays it out", async () => {
    const { folder, name } = await locate("org/tiny", "model", options())
    const root = join(cache, "models--org--tiny")
    expect(name).toBe("org/tiny")
    expect(folder).toBe(join(root, "snapshots", commit))
    expect(readdirSync(folder).sort()).toEqual(["config.json", "model.safetensors", "tokenizer.json"])
    expect(readFileSync(join(root, "refs", "main"), "utf8")).toBe(commit)
    expect(readlinkSync(join(folder, "config.json"))).toBe(
      join("..", "..", "blobs", gitHash(repos["org/tiny"]["config.json"])),
    )
    const sha = createHash("sha256").update(weights).digest("hex")
    expect(readlinkSync(join(folder, "model.safetensors"))).toBe(join("..", "..", "blobs", sha))
    expect(readFileSync(join(folder, "model.safetensors")).equals(weights)).toBe(true)
    expect(readdirSync(blobs()).filter((file) => file.includes("incomplete"))).toEqual([])
  })

  it("a second time: asks what main is and fetches nothing; a commit is not asked about at all", async () => {
    await locate("org/tiny", "model", options())
    hub.asked.length = 0
    await locate("org/tiny", "model", options())
    expect(hub.asked.map(({ path }) => path)).toEqual(["/api/models/org/tiny/revision/main"])
    await locate(`org/tiny@${commit}`, "model", options())
    expect(hub.asked).toHaveLength(1)
  })

  it("a revision, shards by their index, an adapter", async () => {
    await locate("org/tiny@v1", "model", options())
    expect(readFileSync(join(cache, "models--org--tiny", "refs", "v1"), "utf8")).toBe(commit)
    const sharded = await locate("org/sharded", "model", options())
    expect(readdirSync(sharded.folder).sort()).toEqual(
      ["config.json", ...shards, "model.safetensors.index.json"].sort(),
    )
    const adapter = await locate("org/adapter", "adapter", options())
    expect(readdirSync(adapter.folder).sort()).toEqual(["adapter_config.json", "adapter_model.safetensors"])
  })

  it("an index that leads out of its folder is refused", async () => {
    await expect(locate("org/evil", "model", options())).rejects.toMatchObject({ code: "E_PATH" })
  })

  it("a repository without safetensors, whose files are named", async () => {
    const refused = locate("org/pickled", "model", options())
    await expect(refused).rejects.toMatchObject({ code: "E_HUB_FILES", message: /only pytorch_model\.bin/ })
  })
})

describe("a connection that breaks", () => {
  const ranges = (): (string | undefined)[] =>
    hub.asked.filter(({ store, range }) => store && range !== "bytes=0-0").map(({ range }) => range)

  it("is taken up where it broke, as often as something arrives", async () => {
    hub.breaks.push(100_000, 50_000)
    const { folder } = await locate("org/tiny", "model", options())
    expect(ranges()).toEqual([undefined, "bytes=100000-299999", "bytes=150000-299999"])
    expect(readFileSync(join(folder, "model.safetensors")).equals(weights)).toBe(true)
  })

  it("is given up when nothing arrives any more; a later process goes on with what there is", async () => {
    hub.breaks.push(100_000, 0, 0, 0, 0)
    await expect(locate("org/tiny", "model", options())).rejects.toMatchObject({ code: "E_HUB_NETWORK" })
    const [left] = readdirSync(blobs()).filter((file) => file.endsWith(".incomplete"))
    expect(left).toContain(`.${process.pid}.`)
    await expect(locate("org/tiny", "model", options({ offline: true }))).rejects.toMatchObject({
      code: "E_HUB_OFFLINE",
    })
    hub.asked.length = 0
    // As if another process had left it, which has ended.
    const others = (left as string).replace(`.${process.pid}.`, `.${await endedPid()}.`)
    renameSync(join(blobs(), left as string), join(blobs(), others))
    await locate("org/tiny", "model", options())
    expect(ranges()).toEqual(["bytes=100000-299999"])
  })

  it("content that is not what its name says is thrown away", async () => {
    const other = await startHub({ repos, wrong: Buffer.alloc(weights.length) })
    try {
      const refused = locate("org/tiny", "model", options({ endpoint: other.url }))
      await expect(refused).rejects.toMatchObject({ code: "E_HUB_NETWORK", message: /not what was announced/ })
      expect(readdirSync(blobs()).filter((file) => file.includes("incomplete"))).toEqual([])
    } finally {
      await other.close()
    }
  })
})

async function endedPid(): Promise<number> {
  const child = start(["--version"])
  await finish(child)
  return child.pid as number
}

describe("refusals", () => {
  it("no token, a wrong one, the right one, which goes to nobody else", async () => {
    const own = await startHub({
      repos: { "org/secret": repos["org/tiny"] },
      secret: { name: "org/secret", token: "right" },
    })
    try {
      const to = (token?: string) =>
        locate("org/secret", "model", options({ endpoint: own.url, ...(token ? { token } : {}) }))
      await expect(to()).rejects.toMatchObject({ code: "E_HUB_ACCESS", message: /set HF_TOKEN/ })
      await expect(to("wrong")).rejects.toMatchObject({
        code: "E_HUB_ACCESS",
        message: /accept its terms.*check HF_TOKEN/,
      })
      own.asked.length = 0
      await to("right")
      expect(new Set(own.asked.filter(({ store }) => !store).map(({ token }) => token))).toEqual(new Set(["right"]))
      expect(new Set(own.asked.filter(({ store }) => store).map(({ token }) => token))).toEqual(new Set([undefined]))
    } finally {
      await own.close()
    }
  })

  it("a repository or a revision that does not exist", async () => {
    const missing = locate("org/none", "model", options({ token: "any" }))
    await expect(missing).rejects.toMatchObject({ code: "E_HUB_NOT_FOUND", message: /org\/none.*RepoNotFound/ })
    const revision = locate("org/tiny@v9", "model", options())
    await expect(revision).rejects.toMatchObject({ code: "E_HUB_NOT_FOUND", message: /RevisionNotFound/ })
  })

  it("no connection: what was fetched before is used, and said so", async () => {
    const gone = { endpoint: "http://127.0.0.1:1" }
    const refused = locate("org/tiny", "model", options(gone))
    await expect(refused).rejects.toMatchObject({
      code: "E_HUB_NETWORK",
      message: /no folder org\/tiny.*127\.0\.0\.1:1/,
    })
    const { folder } = await locate("org/tiny", "model", options())
    expect(await locate("org/tiny", "model", options(gone))).toEqual({ folder, name: "org/tiny" })
    expect(lines.join()).toContain("as it was last fetched")
  })

  it("offline: the cache alone, without a question and without the library", async () => {
    const offline = { ...options({ offline: true }), connect: () => Promise.reject(new Error("asked")) }
    await expect(locate("org/tiny", "model", offline)).rejects.toMatchObject({
      code: "E_HUB_OFFLINE",
      message: /org\/tiny/,
    })
    const { folder } = await locate("org/tiny", "model", options())
    hub.asked.length = 0
    expect(await locate("org/tiny", "model", offline)).toEqual({ folder, name: "org/tiny" })
    rmSync(join(folder, "model.safetensors"))
    await expect(locate("org/tiny", "model", offline)).rejects.toMatchObject({ code: "E_HUB_OFFLINE" })
    expect(hub.asked).toEqual([])
  })

  it("the package is not installed", async () => {
    const absent = hubClient(settings, () => Promise.reject(new Error("Cannot find package")))
    await expect(absent).rejects.toMatchObject({ code: "E_HUB_PACKAGE", message: /npm install @huggingface\/hub/ })
  })
})

describe("names and settings", () => {
  it("tells ORG/NAME from paths", () => {
    expect(parseRepo("org/name")).toEqual({ name: "org/name", revision: "main" })
    expect(parseRepo("Qwen/Qwen3-0.6B@refs/pr/1")).toEqual({ name: "Qwen/Qwen3-0.6B", revision: "refs/pr/1" })
    for (const path of ["./a/b", "../a", "/a/b", "a", "a/b/c", "a/..", "a--b/c", "a\\b", ".cache/x"])
      expect(parseRepo(path)).toBeUndefined()
    expect(() => parseRepo("a/b@../../x")).toThrow(/E_PATH/)
  })

  it("a folder stands before a repository; what is neither is left to whoever opens it", async () => {
    expect(await locate(cache, "model", options())).toEqual({ folder: cache, name: cache })
    expect(await locate("./no/where", "model", options())).toEqual({ folder: "./no/where", name: "./no/where" })
    expect(hub.asked).toEqual([])
  })

  it("reads the variables that Python reads", () => {
    writeFileSync(join(cache, "token"), "from-file\n")
    expect(hubSettings({ HF_HOME: cache })).toMatchObject({
      endpoint: "https://huggingface.co",
      cache: join(cache, "hub"),
      token: "from-file",
      offline: false,
    })
    const given = {
      HF_HOME: cache,
      HF_HUB_CACHE: "/c",
      HF_TOKEN: "t",
      HF_ENDPOINT: "http://mirror/",
      HF_HUB_OFFLINE: "1",
    }
    expect(hubSettings(given)).toMatchObject({ endpoint: "http://mirror", cache: "/c", token: "t", offline: true })
    expect(hubSettings({ XDG_CACHE_HOME: "/x" }).cache).toBe(join("/x", "huggingface", "hub"))
    expect(hubSettings({ HF_HOME: cache, HF_HUB_DISABLE_IMPLICIT_TOKEN: "1" }).token).toBeUndefined()
  })

  it("shows a download on a terminal, and in one line elsewhere", () => {
    const written: string[] = []
    const stream = (isTTY: boolean) => ({ isTTY, write: (piece: string) => written.push(piece) })
    let ms = 0
    const shown = showFetching("a/b", 4_000_000, stream(true), () => ms)
    ms = 1000
    shown.progress(1_000_000)
    ms = 2000
    shown.progress(3_000_000)
    shown.end()
    expect(written.at(-1)).toMatch(/3\.0 of 4\.0 MB {2}75 % {2}1\.0 MB\/s\n$/)
    written.length = 0
    const quiet = showFetching("a/b", 4_000_000, stream(false))
    quiet.progress(1)
    quiet.end()
    expect(written).toEqual(["fetching a/b (4.0 MB)\n"])
  })
})

describe("the command", () => {
  let work: Workplace
  let server: HubServer
  beforeAll(async () => {
    work = makeWorkplace()
    const files = readdirSync(work.model).map((file) => [file, readFileSync(join(work.model, file))])
    server = await startHub({ repos: { "org/tiny": Object.fromEntries(files) } })
  })
  afterAll(async () => {
    await server.close()
    work.remove()
  })

  it("trains on a model of the hub, names it in the adapter, and works offline from then on", async () => {
    const env = { HF_ENDPOINT: server.url, HF_HOME: join(cache, "home"), HF_HUB_CACHE: cache, HF_HUB_OFFLINE: "0" }
    const output = work.path("out")
    const train = [
      "train",
      "--model",
      "org/tiny",
      "--data",
      work.rows,
      "--output",
      output,
      "--max-steps",
      "1",
      "--json",
    ]
    const { code, stdout, stderr } = await finish(start(train, undefined, env))
    expect([code, stderr]).toEqual([0, expect.stringContaining("fetching org/tiny/model.safetensors")])
    expect(JSON.parse(stdout)).toMatchObject({ steps: 1 })
    expect(JSON.parse(readFileSync(join(output, "adapter", "adapter_config.json"), "utf8"))).toMatchObject({
      base_model_name_or_path: "org/tiny",
    })
    const asked = server.asked.length
    const again = ["eval", "--model", "org/tiny", "--adapter", join(output, "adapter"), "--data", work.rows, "--json"]
    const offline = await finish(start(again, undefined, { ...env, HF_HUB_OFFLINE: "1" }))
    expect([offline.code, offline.stderr]).toEqual([0, ""])
    expect(server.asked).toHaveLength(asked)
    const local = await peftJson(
      "eval",
      "--model",
      work.model,
      "--adapter",
      join(output, "adapter"),
      "--data",
      work.rows,
    )
    expect(JSON.parse(offline.stdout)).toEqual(local)
  }, 120_000)
})
