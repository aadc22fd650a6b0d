/** ORG/NAME@REVISION, and which files of such a repository are needed. Knows neither network nor disk. */
import { checkPath } from "@peftjs/safetensors"

export interface Repo {
  /** "ORG/NAME". */
  readonly name: string
  /** A branch, a tag or a commit. */
  readonly revision: string
}

/** What is wanted of a repository. */
export type RepoKind = "model" | "adapter"

/** The repository that a text names; undefined for what can only be a path. Throws E_PATH for a revision that would leave its folder. */
export function parseRepo(text: string): Repo | undefined {
  const [, name, revision = "main"] = /^(\w[\w.-]*\/\w[\w.-]*)(?:@(.+))?$/.exec(text) ?? []
  if (name === undefined || name.includes("--") || name.includes("..")) return undefined
  return { name, revision: checkPath(revision) }
}

/** Whether a revision says exactly which files are meant, so that nobody has to be asked. */
export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision)

const required = { model: ["config.json"], adapter: ["adapter_config.json"] } as const
const optional = {
  model: [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
  ],
  adapter: [],
} as const
const weights = { model: "model.safetensors", adapter: "adapter_model.safetensors" } as const
export const shardIndex = "model.safetensors.index.json"

export interface Wanted {
  /** Of those the repository has: configuration, tokenizer and the weights or their index. */
  readonly files: readonly string[]
  /** Without these it is of no use. */
  readonly missing: readonly string[]
}

/** What to fetch of the files there are; shards come out of the index. */
export function wantedFiles(present: readonly string[], kind: RepoKind): Wanted {
  const has = (path: string): boolean => present.includes(path)
  const tensors = kind === "model" && !has(weights.model) && has(shardIndex) ? shardIndex : weights[kind]
  const needed = [...required[kind], tensors]
  return { files: [...needed, ...optional[kind]].filter(has), missing: needed.filter((path) => !has(path)) }
}

/** The shards that an index names. Throws E_PATH; an index of another form names none, which whoever loads it says better. */
export function shardsIn(index: string): string[] {
  const map = (JSON.parse(index) as { weight_map?: unknown } | null)?.weight_map
  return [...new Set(Object.values((map ?? {}) as object))].filter((p) => typeof p === "string").map(checkPath)
}
