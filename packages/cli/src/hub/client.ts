/**
 * The hub through @huggingface/hub, which is installed or not: what a revision holds, and the bytes of a file from any position on.
 * Turns whatever goes wrong into one coded error. Knows neither the cache nor which files are wanted.
 */
import { isPeftError, PeftError } from "@peftjs/core"
import type { Repo } from "./repo.ts"
import type { HubSettings } from "./settings.ts"

export interface RemoteFile {
  /** Names the content: for large files their SHA-256. */
  readonly etag: string
  readonly size: number
  /** The bytes from `start` on. */
  open(start: number): Promise<ReadableStream<Uint8Array>>
}

export interface HubClient {
  /** Throws E_HUB_ACCESS, E_HUB_NOT_FOUND, E_HUB_NETWORK. */
  contents(repo: Repo): Promise<{ commit: string; files: string[] }>
  /** Throws the same. */
  file(repo: Repo, path: string): Promise<RemoteFile>
  /** What a broken stream broke for: the library passes on no more than text. */
  errorOf(cause: unknown): PeftError
}

type Library = Pick<typeof import("@huggingface/hub"), "modelInfo" | "fileDownloadInfo" | "downloadFile">

/** Until an answer begins, not until it ends. */
const answerMs = 15_000

/** Throws E_HUB_PACKAGE where the package is not installed. */
export async function hubClient(
  settings: HubSettings,
  load: () => Promise<Library> = () => import("@huggingface/hub"),
): Promise<HubClient> {
  const library = await load().catch((cause) => {
    throw new PeftError(
      "E_HUB_PACKAGE",
      "[cli] models of the hub are fetched by @huggingface/hub, which is not installed: npm install @huggingface/hub, or give a folder",
      { cause },
    )
  })
  const { endpoint, xet } = settings
  let failure: PeftError | undefined
  const fail = (error: PeftError): PeftError => {
    failure = error
    return error
  }
  const errorOf = (cause: unknown): PeftError => {
    const known = isPeftError(cause) ? (cause as PeftError) : failure
    failure = undefined
    return known ?? unreachable(endpoint, cause)
  }
  const request = async (input: RequestInfo | URL, init: RequestInit = {}): Promise<Response> => {
    const timer = new AbortController()
    const timeout = setTimeout(() => timer.abort(new Error(`no answer in ${answerMs / 1000} s`)), answerMs)
    try {
      const response = await fetch(input, { ...init, headers: authorised(input, init, settings), signal: timer.signal })
      const own = sameOrigin(response.url, endpoint)
      if (!response.ok && own) throw fail(refusal(response, settings))
      return response
    } catch (cause) {
      throw isPeftError(cause) ? cause : fail(unreachable(endpoint, cause))
    } finally {
      clearTimeout(timeout)
    }
  }
  const common = ({ name, revision }: Repo) => ({ revision, hubUrl: endpoint, fetch: request, repo: name })
  const attempt = async <T>(body: () => Promise<T>): Promise<T> => {
    try {
      return await body()
    } catch (cause) {
      throw errorOf(cause)
    }
  }
  return {
    errorOf,
    contents: (repo) =>
      attempt(async () => {
        const info = await library.modelInfo({
          ...common(repo),
          name: repo.name,
          additionalFields: ["sha", "filePaths"],
        })
        return { commit: info.sha, files: info.filePaths }
      }),
    file: (repo, path) =>
      attempt(async () => {
        const info = await library.fileDownloadInfo({ ...common(repo), path })
        if (!info) throw new PeftError("E_HUB_NOT_FOUND", `[cli] ${repo.name} has no ${path} at ${repo.revision}`)
        return {
          etag: fileName(info.etag),
          size: info.size,
          async open(start) {
            const blob = await library.downloadFile({ ...common(repo), path, downloadInfo: info, xet })
            const rest = start === 0 ? blob : blob?.slice(start, info.size)
            return (rest as Blob).stream() as ReadableStream<Uint8Array>
          },
        }
      }),
  }
}

/** An etag as Python names blobs by it, which no server may make a path of. */
function fileName(etag: string): string {
  return etag
    .replace(/^W\//, "")
    .replaceAll('"', "")
    .replace(/[^\w-]/g, "_")
}

function sameOrigin(url: string, endpoint: string): boolean {
  return URL.canParse(url) && new URL(url).origin === new URL(endpoint).origin
}

/** The token goes to the endpoint and nowhere else. */
function authorised(input: RequestInfo | URL, init: RequestInit, { endpoint, token }: HubSettings): Headers {
  const headers = new Headers(init.headers)
  const url = input instanceof Request ? input.url : String(input)
  if (token !== undefined && sameOrigin(url, endpoint)) headers.set("Authorization", `Bearer ${token}`)
  return headers
}

function refusal({ status, headers, url }: Response, { token, endpoint }: HubSettings): PeftError {
  const what = headers.get("X-Error-Code") ?? headers.get("X-Error-Message") ?? `HTTP ${status}`
  const gated = what === "GatedRepo" ? `accept its terms at ${endpoint} first, and ` : ""
  if (status === 401 || status === 403) {
    const advice =
      token === undefined
        ? `it does not exist, or needs a token: check the name, or ${gated}set HF_TOKEN`
        : `${gated || "check the name, and "}check HF_TOKEN: it is wrong, has expired, or does not allow this`
    return new PeftError("E_HUB_ACCESS", `[cli] ${url} is refused (${what}); ${advice}`)
  }
  if (status === 404)
    return new PeftError("E_HUB_NOT_FOUND", `[cli] ${url} does not exist (${what}); check name and revision`)
  return new PeftError("E_HUB_NETWORK", `[cli] ${url} answers ${what}; try again later`)
}

function unreachable(endpoint: string, cause: unknown): PeftError {
  const { message, cause: deeper } = cause instanceof Error ? cause : new Error(String(cause))
  const reason =
    deeper instanceof Error ? `${message}: ${deeper.message || (deeper as { code?: string }).code}` : message
  return new PeftError(
    "E_HUB_NETWORK",
    `[cli] the connection to ${endpoint} fails (${reason}); check it, or HF_ENDPOINT; HF_HUB_OFFLINE=1 uses what is cached`,
    { cause },
  )
}
