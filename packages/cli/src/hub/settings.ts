/** Where the hub is and where its files are kept, from the environment variables that huggingface_hub (Python) reads. Knows no network. */
import { readFileSync } from "node:fs"
import { homedir } from "node:os"
import { join } from "node:path"

export interface HubSettings {
  /** Without a slash at the end. */
  readonly endpoint: string
  /** The folder of models--ORG--NAME folders, shared with Python. */
  readonly cache: string
  readonly token?: string
  /** Nothing may be asked of the network. */
  readonly offline: boolean
  /** Whether large files may come by the Xet protocol, where the hub offers it; else by HTTP alone. */
  readonly xet: boolean
  /** Milliseconds before the first repetition of what broke; doubles each time. */
  readonly retryMs: number
}

type Environment = Readonly<Record<string, string | undefined>>

/** HF_ENDPOINT, HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_OFFLINE, HF_HUB_DISABLE_XET and their older names. */
export function hubSettings(env: Environment = process.env): HubSettings {
  const home = folder(env.HF_HOME) ?? join(folder(env.XDG_CACHE_HOME) ?? join(homedir(), ".cache"), "huggingface")
  const cache = folder(env.HF_HUB_CACHE) ?? folder(env.HUGGINGFACE_HUB_CACHE) ?? join(home, "hub")
  const token = tokenOf(env, folder(env.HF_TOKEN_PATH) ?? join(home, "token"))
  return {
    endpoint: (env.HF_ENDPOINT || "https://huggingface.co").replace(/\/+$/, ""),
    cache,
    ...(token === undefined ? {} : { token }),
    offline: isTrue(env.HF_HUB_OFFLINE || env.TRANSFORMERS_OFFLINE),
    xet: !isTrue(env.HF_HUB_DISABLE_XET),
    retryMs: 500,
  }
}

const isTrue = (value: string | undefined): boolean => /^(1|on|yes|true)$/i.test(value ?? "")

function folder(path: string | undefined): string | undefined {
  return path ? path.replace(/^~(?=\/|$)/, homedir()) : undefined
}

/** The variable stands before the file that `hf auth login` writes. */
function tokenOf(env: Environment, file: string): string | undefined {
  const given = (env.HF_TOKEN || env.HUGGING_FACE_HUB_TOKEN)?.trim()
  if (given) return given
  if (isTrue(env.HF_HUB_DISABLE_IMPLICIT_TOKEN)) return undefined
  try {
    return readFileSync(file, "utf8").trim() || undefined
  } catch {
    return undefined
  }
}
