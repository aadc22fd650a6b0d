/**
 * What `--model` and `--adapter` name: a folder or a .gguf file, or ORG/NAME[@REVISION] of the hub, whose files are then fetched to the cache.
 * The order of things; knows neither HTTP nor the cache's layout.
 */
import { existsSync } from "node:fs"
import { PeftError } from "@peftjs/core"
import { isGguf } from "../model-files.ts"
import { type RepoCache, repoCache } from "./cache.ts"
import { type HubClient, hubClient } from "./client.ts"
import { download } from "./download.ts"
import { showFetching } from "./fetching.ts"
import { isCommit, parseRepo, type Repo, type RepoKind, shardIndex, wantedFiles } from "./repo.ts"
import { type HubSettings, hubSettings } from "./settings.ts"

export interface Located {
  /** With the files in it, or a .gguf file. */
  readonly folder: string
  /** What it is called in adapters: the path as given, or ORG/NAME. */
  readonly name: string
}

export interface LocateOptions {
  readonly settings?: HubSettings
  readonly connect?: (settings: HubSettings) => Promise<HubClient>
  /** Told of what is fetched; stderr unless told otherwise. */
  readonly stream?: { write(text: string): unknown; readonly isTTY?: boolean }
}

/** With these, the text may have been meant as a folder. */
const refusals = ["E_HUB_ACCESS", "E_HUB_NOT_FOUND", "E_HUB_NETWORK"]

/**
 * A folder that exists stands before a repository of that name; what is neither is returned as it is, for whoever opens it to refuse.
 *
 * @throws E_HUB_OFFLINE, E_HUB_PACKAGE, E_HUB_ACCESS, E_HUB_NOT_FOUND, E_HUB_FILES, E_HUB_NETWORK, E_WRITE, E_PATH
 */
export async function locate(text: string, kind: RepoKind, options: LocateOptions = {}): Promise<Located> {
  const repo = existsSync(text) || isGguf(text) ? undefined : parseRepo(text)
  if (!repo) return { folder: text, name: text }
  const { settings = hubSettings(), connect = hubClient, stream = process.stderr } = options
  const cache = repoCache(settings.cache, repo)
  const cached = await cache.complete(repo.revision, kind)
  const found = (commit: string): Located => ({ folder: cache.snapshot(commit), name: repo.name })
  if (cached !== undefined && (settings.offline || isCommit(repo.revision))) return found(cached)
  if (settings.offline) {
    throw new PeftError(
      "E_HUB_OFFLINE",
      `[cli] there is no folder ${text}, the cache ${settings.cache} does not hold all of the hub's, and HF_HUB_OFFLINE forbids fetching it`,
    )
  }
  const client = await connect(settings)
  try {
    return found(await fetchSnapshot(repo, kind, { cache, client, stream, retryMs: settings.retryMs }))
  } catch (error) {
    if (!(error instanceof PeftError) || !refusals.includes(error.code)) throw error
    if (cached === undefined || error.code !== "E_HUB_NETWORK") {
      const reason = error.message.replace(/^\[cli\] /, "").replace(/ \(\w+\)$/, "")
      throw new PeftError(error.code, `[cli] there is no folder ${text}, and of the hub: ${reason}`, { cause: error })
    }
    stream.write(`peft: ${settings.endpoint} cannot be asked; using ${repo.name} as it was last fetched\n`)
    return found(cached)
  }
}

interface Fetcher extends Pick<HubSettings, "retryMs"> {
  readonly cache: RepoCache
  readonly client: HubClient
  readonly stream: NonNullable<LocateOptions["stream"]>
}

/** The commit whose snapshot now has all that is needed. */
async function fetchSnapshot(repo: Repo, kind: RepoKind, { cache, client, stream, retryMs }: Fetcher): Promise<string> {
  const { commit, files } = await client.contents(repo)
  const wanted = wantedFiles(files, kind)
  if (wanted.missing.length > 0) {
    const other = files.filter((path) => /\.(bin|pt|gguf|h5|onnx)$/.test(path)).slice(0, 3)
    throw new PeftError(
      "E_HUB_FILES",
      `[cli] ${repo.name} at ${repo.revision} is no ${kind} that can be used: it has no ${wanted.missing.join(" and no ")}${other.length > 0 ? ` (only ${other.join(", ")})` : ""}`,
    )
  }
  const fetchOne = async (path: string): Promise<void> => {
    if (await cache.has(commit, path)) return
    const file = await client.file({ ...repo, revision: commit }, path)
    const shown = showFetching(`${repo.name}/${path}`, file.size, stream)
    try {
      await download(file, { blobs: cache.blobs, client, retryMs, progress: shown.progress })
    } finally {
      shown.end()
    }
    await cache.link(file.etag, commit, path)
  }
  for (const path of wanted.files) await fetchOne(path)
  if (wanted.files.includes(shardIndex)) for (const path of await cache.shards(commit)) await fetchOne(path)
  await cache.refer(repo.revision, commit)
  return commit
}
