/** The worker: does the page's commands one after the other and reports. Knows nothing of how it looks. */
import type { Backend } from "@peftjs/core"
import { type Chosen, chooseBackend } from "./backend.ts"
import { bundledFiles, chosenFiles } from "./files.ts"
import type { Command, Report } from "./messages.ts"
import { openSession, type Session } from "./session.ts"
import { formatOf, knownFormats, sizeOf } from "./weights.ts"

const say = (report: Report): void => postMessage(report)

let bundle: ReturnType<typeof bundledFiles>
let session: Promise<Session> | undefined
let running = new AbortController()
let last: Promise<void> = Promise.resolve()

addEventListener("message", ({ data }: MessageEvent<Command>) => {
  if (data.do === "stop") running.abort()
  else last = last.then(() => obey(data)).catch(fail)
})

async function obey(command: Exclude<Command, { do: "stop" }>): Promise<void> {
  if (command.do === "open") {
    session = open(command)
    await session
    return
  }
  if (!session) throw new Error("no model is open")
  const work = await session
  switch (command.do) {
    case "train":
    case "continue": {
      const { data, steps } = command.settings
      const rows = data ? await data.text() : await bundle.questions()
      running = new AbortController()
      let at = performance.now()
      const result = await work.train(rows, command.settings, {
        goOn: command.do === "continue",
        signal: running.signal,
        onStep({ step, loss }) {
          const now = performance.now()
          say({ is: "step", step, steps, loss, seconds: (now - at) / 1000 })
          at = now
        },
      })
      say({ is: "trained", step: result.steps, steps: result.totalSteps, stopped: result.interrupted })
      return
    }
    case "ask":
      await work.ask(command.prompt, command.maxNewTokens, (speaker, text) => say({ is: "text", speaker, text }))
      say({ is: "asked" })
      return
    case "save":
      say({ is: "saved", files: await work.save() })
      return
    case "load":
      say({ is: "loaded", what: await work.load(chosenFiles(command.files)) })
  }
}

async function open({ device, stored, files, page }: Extract<Command, { do: "open" }>): Promise<Session> {
  bundle = bundledFiles(page)
  say({ is: "busy", text: "Reading the model …" })
  let chosen: Chosen | undefined
  const makeBackend = async (): Promise<Backend> => {
    chosen?.close()
    chosen = await chooseBackend(device)
    return chosen.backend
  }
  const weights = formatOf(stored)
  const loading = { formats: knownFormats, ...(weights ? { weights } : {}) }
  const opened = await openSession(files ? chosenFiles(files) : await bundle.model(), makeBackend, loading)
  const { bytes, parameters } = sizeOf(opened.base)
  const millions = (n: number): string => (n / 1e6).toLocaleString("en", { maximumFractionDigits: 1 })
  const model = `${String(opened.base.config.model_type)}, ${millions(parameters)} million parameters in ${millions(bytes)} MB`
  const { device: name, note } = chosen as Chosen
  say({ is: "open", model, device: name, ...(note ? { note } : {}) })
  return opened
}

/** Memory that runs out has no name of its own in JavaScript. */
function fail(error: unknown): void {
  const { message, code } = error as Error & { code?: string }
  const full = error instanceof RangeError && /alloc|length/i.test(message)
  say({ is: "failed", code: full ? "E_OUT_OF_MEMORY" : String(code ?? "E_INTERNAL"), message })
}
