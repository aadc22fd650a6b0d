/** What is reported of an optimizer step, spelt as in metrics.jsonl. */

export interface StepMetrics {
  /** 1 for the first. */
  readonly step: number
  /** Mean over the step's counted tokens (weighted by promptLossWeight), with the method's penalties. */
  readonly loss: number
  /** Mean over response tokens, whatever the loss mask; absent when the step had none. */
  readonly response_loss?: number
  readonly learning_rate: number
  /** Of all gradients together, before clipping. */
  readonly grad_norm: number
  /** Labels that counted. */
  readonly tokens: number
  /** Tokens that went through the model, without padding. */
  readonly input_tokens: number
}
