/** What the page and its worker say to each other. Only plain data, so that all of it can be sent. */

export type Device = "auto" | "webgpu" | "cpu"
/** How the base's linear layers are kept: as the files have them, or packed while they are read. */
export type Stored = "as-stored" | "nf4" | "nf4-double" | "int8"

export interface TrainSettings {
  readonly steps: number
  readonly batchSize: number
  readonly learningRate: number
  readonly rank: number
  readonly dropout: number
  /** JSON lines; the bundled questions without it. */
  readonly data?: File | undefined
}

/** Done one after the other, except for "stop". */
export type Command =
  /** The first one, once. Without files the bundled model, which lies beside the page. */
  | {
      readonly do: "open"
      readonly device: Device
      readonly stored: Stored
      readonly page: string
      readonly files?: readonly File[] | undefined
    }
  | { readonly do: "train"; readonly settings: TrainSettings }
  /** Goes on with a run that was stopped, else with whatever adapter there is. */
  | { readonly do: "continue"; readonly settings: TrainSettings }
  | { readonly do: "stop" }
  | { readonly do: "ask"; readonly prompt: string; readonly maxNewTokens: number }
  | { readonly do: "save" }
  | { readonly do: "load"; readonly files: readonly File[] }

/** Whose answer it is. */
export type Speaker = "base" | "adapted"

export type Report =
  | { readonly is: "busy"; readonly text: string }
  | {
      readonly is: "open"
      /** What it is and how large, in words. */
      readonly model: string
      /** What computes, in words. */
      readonly device: string
      /** Why it is not another, and what that means. */
      readonly note?: string
    }
  | {
      readonly is: "step"
      readonly step: number
      readonly steps: number
      readonly loss: number
      /** Time the step took. */
      readonly seconds: number
    }
  | { readonly is: "trained"; readonly step: number; readonly steps: number; readonly stopped: boolean }
  | { readonly is: "text"; readonly speaker: Speaker; readonly text: string }
  | { readonly is: "asked" }
  | { readonly is: "saved"; readonly files: Readonly<Record<string, Uint8Array>> }
  | { readonly is: "loaded"; readonly what: string }
  | { readonly is: "failed"; readonly code: string; readonly message: string }
