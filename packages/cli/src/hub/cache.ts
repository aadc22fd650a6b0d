/**
 * A repository in the standard cache, laid out as huggingface_hub (Python) does, so that both share it:
 * models--ORG--NAME/{blobs/ETAG, snapshots/COMMIT/PATH → blob, refs/REVISION holding COMMIT}. Knows no network.
 */
import { copyFile, mkdir, readFile, rename, stat, symlink, writeFile } from "node:fs/promises"
import { dirname, join, relative } from "node:path"
import { PeftError } from "@peftjs/core"
import { isCommit, type Repo, type RepoKind, shardIndex, shardsIn, wantedFiles } from "./repo.ts"

export interface RepoCache {
  readonly blobs: string
  snapshot(commit: string): string
  /** Whether a snapshot has a file. */
  has(commit: string, path: string): Promise<boolean>
  /** The commit of the revision when it was last fetched, if its snapshot has all that is needed of such a repository. */
  complete(revision: string, kind: RepoKind): Promise<string | undefined>
  /** The names of the shards, from the snapshot's index. */
  shards(commit: string): Promise<string[]>
  /** Makes a fetched blob a file of the snapshot. Throws E_WRITE. */
  link(etag: string, commit: string, path: string): Promise<void>
  /** Remembers what a revision stands for. Throws E_WRITE. */
  refer(revision: string, commit: string): Promise<void>
}

export function repoCache(cache: string, { name }: Repo): RepoCache {
  const root = join(cache, `models--${name.replace("/", "--")}`)
  const blobs = join(root, "blobs")
  const snapshot = (commit: string): string => join(root, "snapshots", commit)
  const has = (commit: string, path: string): Promise<boolean> => isFile(join(snapshot(commit), path))
  const shards = async (commit: string): Promise<string[]> =>
    shardsIn(await readFile(join(snapshot(commit), shardIndex), "utf8"))
  return {
    blobs,
    snapshot,
    has,
    shards,
    async complete(revision, kind) {
      const commit = isCommit(revision) ? revision : await referred(join(root, "refs", revision))
      if (commit === undefined) return undefined
      const present = await presentOf(commit, kind, has)
      const { files, missing } = wantedFiles(present, kind)
      if (missing.length > 0) return undefined
      const parts = files.includes(shardIndex) ? await shards(commit) : []
      const there = await Promise.all(parts.map((path) => has(commit, path)))
      return there.every(Boolean) ? commit : undefined
    },
    async link(etag, commit, path) {
      const pointer = join(snapshot(commit), path)
      const blob = join(blobs, etag)
      await writing(pointer, async () => {
        await mkdir(dirname(pointer), { recursive: true })
        // Where links are not allowed, as on Windows without developer mode, Python keeps a copy too.
        await symlink(relative(dirname(pointer), blob), pointer).catch(async (error: NodeJS.ErrnoException) => {
          if (error.code !== "EEXIST") await copyFile(blob, pointer)
        })
      })
    },
    async refer(revision, commit) {
      if (isCommit(revision)) return
      const ref = join(root, "refs", revision)
      if ((await referred(ref)) === commit) return
      await writing(ref, async () => {
        await mkdir(dirname(ref), { recursive: true })
        await writeFile(`${ref}.${process.pid}.tmp`, commit)
        await rename(`${ref}.${process.pid}.tmp`, ref)
      })
    },
  }
}

async function isFile(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isFile() ?? false
}

async function referred(path: string): Promise<string | undefined> {
  const text = (await readFile(path, "utf8").catch(() => "")).trim()
  return isCommit(text) ? text : undefined
}

/** Of all files that could be wanted, those a snapshot has. */
async function presentOf(commit: string, kind: RepoKind, has: RepoCache["has"]): Promise<string[]> {
  const { files, missing } = wantedFiles([], kind)
  const candidates = [...files, ...missing, ...(kind === "model" ? [shardIndex] : [])]
  const there = await Promise.all(candidates.map((path) => has(commit, path)))
  return candidates.filter((_, i) => there[i])
}

/** Gives what the disk refuses a code. */
export async function writing<T>(path: string, body: () => Promise<T>): Promise<T> {
  try {
    return await body()
  } catch (cause) {
    if (!(cause instanceof Error) || !("syscall" in cause)) throw cause
    throw new PeftError(
      "E_WRITE",
      `[cli] cannot write ${path}: ${cause.message}; HF_HUB_CACHE moves the cache elsewhere`,
      { cause },
    )
  }
}
