/**
 * The contract of a model: plain layers over named parameters and sites.
 * A model must not know methods, adapters, training or where its weights are stored: it asks the Run for every parameter and product,
 * so that adapters, overlays and checkpointing need no change in it.
 */
import type { Backend } from "./backend.ts"
import type { Tensor } from "./tensor.ts"
import type { Weight } from "./weight.ts"

export type SiteKind = "linear" | "embedding"

/** One adaptable layer. The base is always [out, in]; an embedding's is [ids, width], its x is ids, `in` their number and `out` the width. */
export interface Site {
  /** Module path as Hugging Face spells it: "model.layers.0.self_attn.q_proj". */
  readonly path: string
  readonly kind: SiteKind
  readonly in: number
  readonly out: number
  /** Path of the base in the parameter table; a tied head names the embedding's. */
  readonly param: string
  readonly base: Weight
  /** Path of the bias in the parameter table. */
  readonly bias?: string
  /** The site whose weight this one shares. */
  readonly tiedTo?: string
  /** An embedding's padding id: looking it up trains nothing, as in torch.nn.Embedding. */
  readonly paddingId?: number
  /** Files hold the base as [in, out] (GPT-2's Conv1D); here it is [out, in] like any other. */
  readonly fanInFanOut?: true
}

/** Path → value; matrices are weights, vectors tensors. Never changed: overlays of a view stand before it. */
export type ParamTable = ReadonlyMap<string, Tensor | Weight>

/** A batch of token ids, row-major [batch, tokens], on the host. */
export interface ModelInput {
  readonly ids: Int32Array
  readonly batch: number
  readonly tokens: number
  /** 1 where a token counts, 0 for padding; [batch, tokens], or [batch, cached + tokens] with a cache. */
  readonly mask?: Int32Array
  /** Positions [batch, tokens]; by default 0, 1, 2 … (after the cache's). */
  readonly positions?: Int32Array
  readonly cache?: Cache
}

/** Keys and values of earlier tokens. Lives until `free`. */
export interface Cache {
  /** Tokens stored. */
  readonly length: number
  /** Adds [batch, tokens, heads, dim] of a layer and returns all of that layer's, oldest first. */
  update(layer: string, k: Tensor, v: Tensor): readonly [Tensor, Tensor]
  free(): void
}

/** What one forward pass is for. Random numbers are keyed by seed, step and micro-batch. */
/** Consecutive sequences of a micro-batch that has `of`. */
export interface Part {
  readonly first: number
  readonly rows: number
  readonly of: number
}

export interface RunOptions {
  /** Dropout on. */
  readonly training?: boolean
  readonly seed?: number
  readonly step?: number
  readonly microBatch?: number
  /** Where the sequences are some of a micro-batch's: dropout then draws the masks it would draw in all of it. */
  readonly part?: Part
  /** Blocks keep only their input; the backward pass runs them again. */
  readonly gradientCheckpointing?: boolean
}

/** What layers are built from during one forward pass. */
export interface Run {
  readonly backend: Backend
  readonly training: boolean
  /** A vector parameter, such as a norm's weight. Throws E_PARAM when there is none. */
  tensor(path: string): Tensor
  /** The layer at a linear site: adapters over base and bias. x [..., in] → [..., out]. */
  linear(path: string, x: Tensor): Tensor
  /** The layer at an embedding site: ids i32 [...] → [..., width]. */
  embedding(path: string, ids: Tensor): Tensor
  /** Cross-entropy of the layer at a linear site without its whole output: x [n, in], labels i32 [n] → [n]. */
  linearCrossEntropy(path: string, x: Tensor, labels: Tensor): Tensor
  /** A stretch of layers: what it made is freed at its end, or computed again when checkpointing. It may use tensors made before it in the same pass. */
  block(body: () => Tensor): Tensor
}

/** What a model package provides; `bindModel` makes a Model of it. */
export interface ModelDefinition {
  readonly backend: Backend
  /** config.json as read. */
  readonly config: Readonly<Record<string, unknown>>
  /** What config.json's folder is called: goes into base_model_name_or_path. */
  readonly name: string
  readonly sites: ReadonlyMap<string, Site>
  readonly params: ParamTable
  /** Path of the site that turns hidden states into logits. */
  readonly head: string
  readonly tokenizer?: Tokenizer
  /** Hidden states after the last norm: [batch, tokens, width]. */
  hidden(input: ModelInput, run: Run): Tensor
  /** Makes an empty cache for generation. */
  makeCache(): Cache
}

export interface ChatMessage {
  readonly role: string
  readonly content: string
}

/** Text to ids and back, with the model's own chat template. */
export interface Tokenizer {
  readonly eosTokenId: number | undefined
  readonly padTokenId: number | undefined
  readonly bosTokenId: number | undefined
  /** Ids of a text, with the tokenizer's own special tokens around it unless told otherwise. */
  encode(text: string, options?: { addSpecialTokens?: boolean }): number[]
  decode(ids: readonly number[], options?: { skipSpecialTokens?: boolean }): string
  /** Renders messages as the model was trained on. Throws E_CHAT_TEMPLATE when the model has none or it fails. */
  applyChatTemplate(messages: readonly ChatMessage[], options?: { addGenerationPrompt?: boolean }): string
  /** The same text, with the character ranges of the assistant's turns where the template marks them ({% generation %}). */
  renderChat?(
    messages: readonly ChatMessage[],
    options?: { addGenerationPrompt?: boolean },
  ): { readonly text: string; readonly assistant?: readonly (readonly [start: number, end: number])[] }
}
