/** The page: what a person sees and does, and what the worker reports. All that is computed is computed there. */
import { type Chart, lossChart } from "./chart.ts"
import { download } from "./download.ts"
import { explain } from "./explain.ts"
import type { Command, Device, Report, Stored, TrainSettings } from "./messages.ts"

const at = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T
const input = (id: string): HTMLInputElement => at<HTMLInputElement>(id)
const choice = (id: string): HTMLSelectElement => at<HTMLSelectElement>(id)
const button = (id: string): HTMLButtonElement => at<HTMLButtonElement>(id)

type State = "opening" | "ready" | "training" | "stopping" | "working" | "broken"

const chart: Chart = lossChart(at("chart"))
const times: number[] = []
let worker: Worker | undefined
let state: State = "opening"
let hasAdapter = false
/** Steps of earlier runs on the same adapter. */
let before = 0

/** A worker of its own for every model, so that the memory of the last one is surely given back. */
function open(): void {
  worker?.terminate()
  worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" })
  worker.addEventListener("message", ({ data }: MessageEvent<Report>) => hear(data))
  worker.addEventListener("error", ({ message = "the worker did not load" }) => {
    hear({ is: "failed", code: "E_INTERNAL", message })
  })
  hasAdapter = false
  chart.clear()
  at("figures").textContent = "Not trained yet."
  at("loaded").textContent = ""
  at("note").hidden = true
  show({ base: "–", adapted: "Train one first." })
  const { files } = input("folder")
  const device = choice("device").value as Device
  const stored = choice("weights").value as Stored
  const own = files?.length ? [...files] : undefined
  tell({ do: "open", device, stored, page: document.baseURI, files: own }, "opening")
}

function tell(command: Command, next: State): void {
  at("problem").hidden = true
  worker?.postMessage(command)
  enter(next)
}

function enter(next: State): void {
  state = next
  const ready = state === "ready"
  button("start").disabled = !ready
  button("stop").disabled = state !== "training"
  button("continue").disabled = !ready || !hasAdapter
  button("ask").disabled = !ready
  button("save").disabled = !ready || !hasAdapter
  input("load").disabled = !ready
}

function hear(report: Report): void {
  switch (report.is) {
    case "busy":
      at("model").textContent = report.text
      return
    case "open":
      at("model").textContent = `${report.model}, on ${report.device}`
      at("note").textContent = report.note ?? ""
      at("note").hidden = report.note === undefined
      ask()
      return
    case "step": {
      const { step, steps, loss, seconds } = report
      times.push(seconds)
      chart.add(before + step, loss)
      const progress = at<HTMLProgressElement>("progress")
      progress.max = steps
      progress.value = step
      const pace = median(times.slice(-10))
      const left = Math.ceil(pace * (steps - step))
      at("figures").textContent =
        `Step ${step} of ${steps} · loss ${loss.toFixed(3)} · ${pace.toPrecision(2)} s per step${left > 0 ? ` · ${left} s left` : ""}`
      return
    }
    case "trained":
      if (!report.stopped) before += report.steps
      hasAdapter = true
      enter("ready")
      if (report.stopped) at("figures").textContent += " · stopped"
      else ask()
      return
    case "text":
      at(report.speaker).textContent += report.text
      return
    case "asked":
      enter("ready")
      return
    case "saved":
      download("adapter.zip", report.files)
      enter("ready")
      return
    case "loaded":
      hasAdapter = true
      before = 0
      chart.clear()
      at("loaded").textContent = `Loaded: ${report.what}.`
      enter("ready")
      ask()
      return
    case "failed":
      at("problem").textContent = explain(report)
      at("problem").hidden = false
      if (state === "opening") at("model").textContent = "No model is open."
      // An adapter that was in training keeps what it has learnt.
      if (state === "training" || state === "stopping") hasAdapter = true
      enter(state === "opening" ? "broken" : "ready")
  }
}

function train(command: "train" | "continue"): void {
  times.length = 0
  if (command === "train") {
    before = 0
    chart.clear()
  }
  tell({ do: command, settings: settings() }, "training")
}

function settings(): TrainSettings {
  const number = (id: string): number => input(id).valueAsNumber
  return {
    ...{ steps: number("steps"), batchSize: number("batch"), learningRate: number("rate") },
    ...{ rank: number("rank"), dropout: number("dropout"), data: input("data").files?.[0] },
  }
}

function ask(): void {
  show({ base: "", adapted: hasAdapter ? "" : "Train one first." })
  tell({ do: "ask", prompt: at<HTMLTextAreaElement>("prompt").value, maxNewTokens: 48 }, "working")
}

function show(texts: Readonly<Record<"base" | "adapted", string>>): void {
  for (const [id, text] of Object.entries(texts)) at(id).textContent = text
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] as number

at("settings").addEventListener("submit", (event) => {
  event.preventDefault()
  train("train")
})
// What is wrong must be seen.
at("settings").addEventListener("invalid", () => at("more").setAttribute("open", ""), true)
button("stop").addEventListener("click", () => tell({ do: "stop" }, "stopping"))
button("continue").addEventListener("click", () => train("continue"))
at("question").addEventListener("submit", (event) => {
  event.preventDefault()
  ask()
})
button("save").addEventListener("click", () => tell({ do: "save" }, "working"))
input("load").addEventListener("change", () => {
  const { files } = input("load")
  if (files?.length) tell({ do: "load", files: [...files] }, "working")
})
for (const id of ["device", "weights", "folder"]) at(id).addEventListener("change", open)

// A link may say which: page.html?device=cpu&weights=nf4
for (const [id, usual] of Object.entries({ device: "auto", weights: "as-stored" })) {
  choice(id).value = new URLSearchParams(location.search).get(id) ?? usual
}
open()
