/** A server that answers as huggingface.co does to what is asked when a model is fetched; large files lie on another one, as there. */
import { createHash } from "node:crypto"
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"

export const commit: string = "0123456789abcdef".repeat(3).slice(0, 40)

export interface HubServer {
  readonly url: string
  /** "GET /path Range" of everything asked so far, and whether a token came along. */
  readonly asked: { path: string; range: string | undefined; token: string | undefined; store: boolean }[]
  /** Connections that break after so many bytes of a large file, one entry each. */
  readonly breaks: number[]
  close(): Promise<void>
}

export interface HubContents {
  /** "ORG/NAME" → path → content. */
  readonly repos: Readonly<Record<string, Readonly<Record<string, Buffer>>>>
  /** Names that need this token. */
  readonly secret?: { readonly name: string; readonly token: string }
  /** What the store sends instead of the large files. */
  readonly wrong?: Buffer
}

export async function startHub({ repos, secret, wrong }: HubContents): Promise<HubServer> {
  const asked: HubServer["asked"] = []
  const breaks: number[] = []
  const note = (request: IncomingMessage, store: boolean): string => {
    const { authorization, range } = request.headers
    const path = decodeURIComponent((request.url as string).split("?")[0] as string)
    asked.push({ path, range, token: authorization?.replace("Bearer ", ""), store })
    return path
  }
  const store = await listen((request, response) => {
    const [, name, path] = /^\/([^/]+\/[^/]+)\/(.+)$/.exec(note(request, true)) as unknown as [string, string, string]
    const data = wrong ?? (repos[name]?.[path] as Buffer)
    send(
      request,
      response,
      data,
      `"${sha256(repos[name]?.[path] as Buffer)}"`,
      request.headers.range === "bytes=0-0" ? undefined : breaks.shift(),
    )
  })
  const hub = await listen((request, response) => {
    const path = note(request, false)
    const refuse = (status: number, code: string): unknown =>
      response.writeHead(status, { "X-Error-Code": code, "Content-Type": "application/json" }).end('{"error":"no"}')
    const [, name = "", kind, revision = "", file] =
      /^(?:\/api\/models)?\/([^/]+\/[^/]+)\/(revision|resolve)\/([^/]+)(?:\/(.+))?$/.exec(path) ?? []
    const token = request.headers.authorization?.replace("Bearer ", "")
    if (secret?.name === name && token !== secret.token) {
      return token === undefined ? refuse(401, "RepoNotFound") : refuse(403, "GatedRepo")
    }
    const files = repos[name]
    if (!files) return refuse(token === undefined ? 401 : 404, "RepoNotFound")
    if (!["main", "v1", commit].includes(revision)) return refuse(404, "RevisionNotFound")
    if (kind === "revision") {
      const siblings = Object.keys(files).map((rfilename) => ({ rfilename }))
      const info = {
        _id: "1",
        id: name,
        sha: commit,
        siblings,
        private: false,
        gated: false,
        lastModified: "2026-01-01",
      }
      return response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify(info))
    }
    const data = files[file ?? ""]
    if (!data) return refuse(404, "EntryNotFound")
    if (!file?.endsWith(".safetensors")) return send(request, response, data, `"${gitHash(data)}"`)
    return response.writeHead(302, { Location: `${store.url}/${name}/${file}` }).end()
  })
  return {
    url: hub.url,
    asked,
    breaks,
    close: async () => {
      await Promise.all([hub.close(), store.close()])
    },
  }
}

async function listen(
  answer: (request: IncomingMessage, response: ServerResponse) => unknown,
): Promise<{ url: string; close(): Promise<void> }> {
  const server: Server = createServer((request, response) => void answer(request, response))
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

function send(
  request: IncomingMessage,
  response: ServerResponse,
  data: Buffer,
  etag: string,
  breakAfter?: number,
): void {
  const [, from = "0", to = `${data.length - 1}`] = /^bytes=(\d+)-(\d+)?$/.exec(request.headers.range ?? "") ?? []
  const part = data.subarray(Number(from), Number(to) + 1)
  response.writeHead(request.headers.range ? 206 : 200, {
    ETag: etag,
    "Content-Length": part.length,
    ...(request.headers.range ? { "Content-Range": `bytes ${from}-${to}/${data.length}` } : {}),
  })
  if (breakAfter === undefined) response.end(part)
  else response.write(part.subarray(0, breakAfter), () => setTimeout(() => response.destroy(), 20))
}

const sha256 = (data: Buffer): string => createHash("sha256").update(data).digest("hex")
export const gitHash = (data: Buffer): string =>
  createHash("sha1").update(`blob ${data.length}\0`).update(data).digest("hex")
