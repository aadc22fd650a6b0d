/**
 * Rendering a conversation with the Jinja template that came with a model, as transformers' apply_chat_template does.
 * Knows the template's text and its variables, no token ids.
 */
import { Template } from "@huggingface/jinja"
import type { ChatMessage } from "@peftjs/core"
import { PeftError } from "@peftjs/core"

/** A rendered conversation. */
export interface RenderedChat {
  readonly text: string
  /** [start, end) in `text` of what stands inside the template's `{% generation %}` blocks; undefined if it has none. */
  readonly assistant?: readonly (readonly [number, number])[]
}

export interface ChatTemplate {
  /** Throws E_CHAT_TEMPLATE when the template is broken, refuses the messages or is not there. */
  render(messages: readonly ChatMessage[], options?: { addGenerationPrompt?: boolean }): RenderedChat
}

/** Characters of the private use area that stand for the ends of a generation block while rendering. */
const [opening, closing] = ["\uF8F0", "\uF8F1"]
const generationTag = /(?:^[ \t]*)?\{%(-?)\s*(end)?generation\s*(?:(-)%\}|%\}\n?)/gm

/**
 * @param source the template, or undefined for a tokenizer that has none
 * @param variables what templates may name besides the messages: bos_token and the like
 * @param file what to call the tokenizer in messages
 */
export function chatTemplate(
  source: string | undefined,
  variables: Readonly<Record<string, string>>,
  file: string,
): ChatTemplate {
  const marked = source?.replace(generationTag, (_, before: string, end: string | undefined, after = "") => {
    return `{{${before} "${end ? closing : opening}" ${after}}}`
  })
  let compiled: Template | undefined
  return {
    render(messages, options = {}) {
      if (marked === undefined) {
        throw new PeftError(
          "E_CHAT_TEMPLATE",
          `[models] ${file} has no chat template; give plain text, or a folder with chat_template.jinja`,
        )
      }
      try {
        compiled ??= new Template(marked)
        const text = compiled.render({
          ...variables,
          messages: messages.map((message) => ({ ...message })),
          add_generation_prompt: options.addGenerationPrompt ?? false,
          tools: null,
          documents: null,
        })
        return marked === source ? { text } : withoutMarks(text)
      } catch (cause) {
        throw new PeftError(
          "E_CHAT_TEMPLATE",
          `[models] the chat template of ${file} failed: ${(cause as Error).message}`,
          { cause },
        )
      }
    },
  }
}

function withoutMarks(rendered: string): RenderedChat {
  const assistant: [number, number][] = []
  let text = ""
  for (const piece of rendered.split(new RegExp(`(?=[${opening}${closing}])`))) {
    if (piece.startsWith(opening)) assistant.push([text.length, text.length])
    const [span] = assistant.slice(-1)
    if (piece.startsWith(closing) && span) span[1] = text.length
    text += piece.startsWith(opening) || piece.startsWith(closing) ? piece.slice(1) : piece
  }
  return { text, assistant }
}
