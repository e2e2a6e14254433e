# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The flags of ``vllm serve``, by version, as its own parser has them. Written and held to the parsers by tests/parser/parsers.py."""

from __future__ import annotations

from functools import lru_cache

# A flag, its kind (value; switch: has a --no- form; bare: only as it is), and the versions of vLLM that have it.
TABLE = """\
additional-config value 0.11.0 0.18.0 0.23.0 0.32.0
aggregate-engine-logging bare 0.18.0 0.23.0 0.32.0
all2all-backend value 0.18.0 0.23.0 0.32.0
allow-credentials switch 0.11.0 0.18.0 0.23.0 0.32.0
allow-deprecated-quantization switch 0.18.0 0.23.0 0.32.0
allowed-headers value 0.11.0 0.18.0 0.23.0 0.32.0
allowed-local-media-path value 0.11.0 0.18.0 0.23.0 0.32.0
allowed-media-domains value 0.11.0 0.18.0 0.23.0 0.32.0
allowed-methods value 0.11.0 0.18.0 0.23.0 0.32.0
allowed-origins value 0.11.0 0.18.0 0.23.0 0.32.0
anthropic-disabled-thinking-effort value 0.32.0
api-key value 0.11.0 0.18.0 0.23.0 0.32.0
api-server-count value 0.11.0 0.18.0 0.23.0 0.32.0
async-scheduling switch 0.11.0 0.18.0 0.23.0 0.32.0
attention-backend value 0.18.0 0.23.0 0.32.0
attention-config value 0.18.0 0.23.0 0.32.0
aux-output-config value 0.32.0
block-size value 0.11.0 0.18.0 0.23.0 0.32.0
calculate-kv-scales switch 0.11.0 0.18.0 0.23.0
chat-template value 0.11.0 0.18.0 0.23.0 0.32.0
chat-template-content-format value 0.11.0 0.18.0 0.23.0 0.32.0
code-revision value 0.11.0 0.18.0 0.23.0 0.32.0
cohere-format value 0.32.0
cohere-is-reasoning-model switch 0.32.0
collect-detailed-traces value 0.11.0 0.18.0 0.23.0 0.32.0
compilation-config value 0.11.0 0.18.0 0.23.0 0.32.0
config value 0.11.0 0.18.0 0.23.0 0.32.0
config-format value 0.11.0 0.18.0 0.23.0 0.32.0
convert value 0.11.0 0.18.0 0.23.0 0.32.0
cp-kv-cache-interleave-size value 0.18.0 0.23.0 0.32.0
cpu-distributed-timeout-seconds value 0.23.0 0.32.0
cpu-offload-gb value 0.11.0 0.18.0 0.23.0 0.32.0
cpu-offload-params value 0.18.0 0.23.0 0.32.0
cuda-graph-sizes value 0.11.0
cudagraph-capture-sizes value 0.18.0 0.23.0 0.32.0
cudagraph-metrics switch 0.18.0 0.23.0 0.32.0
custom-histogram-buckets value 0.32.0
data-parallel-address value 0.11.0 0.18.0 0.23.0 0.32.0
data-parallel-backend value 0.11.0 0.18.0 0.23.0 0.32.0
data-parallel-external-lb switch 0.18.0 0.23.0 0.32.0
data-parallel-hybrid-lb switch 0.11.0 0.18.0 0.23.0 0.32.0
data-parallel-multi-port-external-lb bare 0.23.0 0.32.0
data-parallel-rank value 0.11.0 0.18.0 0.23.0 0.32.0
data-parallel-rpc-port value 0.11.0 0.18.0 0.23.0 0.32.0
data-parallel-size value 0.11.0 0.18.0 0.23.0 0.32.0
data-parallel-size-local value 0.11.0 0.18.0 0.23.0 0.32.0
data-parallel-start-rank value 0.11.0 0.18.0 0.23.0 0.32.0
data-parallel-supervisor-port value 0.23.0 0.32.0
dbo-decode-token-threshold value 0.11.0 0.18.0 0.23.0 0.32.0
dbo-prefill-token-threshold value 0.11.0 0.18.0 0.23.0 0.32.0
dcp-comm-backend value 0.18.0 0.23.0 0.32.0
dcp-kv-cache-interleave-size value 0.18.0 0.23.0 0.32.0
dcp-q-replicate switch 0.32.0
decode-context-parallel-size value 0.11.0 0.18.0 0.23.0 0.32.0
default-chat-template-kwargs value 0.18.0 0.23.0 0.32.0
default-mm-loras value 0.11.0 0.18.0 0.23.0 0.32.0
device-ids value 0.32.0
device-memory-utilization value 0.32.0
diffusion-config value 0.32.0
disable-access-log-for-endpoints value 0.18.0 0.23.0 0.32.0
disable-cascade-attn switch 0.11.0 0.18.0 0.23.0 0.32.0
disable-chunked-mm-input switch 0.11.0 0.18.0 0.23.0 0.32.0
disable-custom-all-reduce switch 0.11.0 0.18.0 0.23.0 0.32.0
disable-fastapi-docs switch 0.11.0 0.18.0 0.23.0 0.32.0
disable-frontend-multiprocessing switch 0.11.0 0.18.0
disable-hybrid-kv-cache-manager switch 0.11.0 0.18.0 0.23.0 0.32.0
disable-log-requests switch 0.11.0
disable-log-stats bare 0.11.0 0.18.0 0.23.0 0.32.0
disable-mm-preprocessor-cache bare 0.11.0
disable-nccl-for-dp-synchronization switch 0.18.0 0.23.0 0.32.0
disable-sliding-window switch 0.11.0 0.18.0 0.23.0 0.32.0
disable-uvicorn-access-log switch 0.11.0 0.18.0 0.23.0 0.32.0
distributed-executor-backend value 0.11.0 0.18.0 0.23.0 0.32.0
distributed-timeout-seconds value 0.18.0 0.23.0 0.32.0
download-dir value 0.11.0 0.18.0 0.23.0 0.32.0
dp-supervisor-probe-failure-threshold value 0.23.0 0.32.0
dp-supervisor-probe-interval-s value 0.23.0 0.32.0
dp-supervisor-probe-timeout-s value 0.23.0 0.32.0
dp-sync-interval value 0.32.0
dtype value 0.11.0 0.18.0 0.23.0 0.32.0
ec-manager-config value 0.32.0
ec-transfer-config value 0.18.0 0.23.0 0.32.0
elastic-ep-max-dp-size value 0.32.0
enable-auto-tool-choice switch 0.11.0 0.18.0 0.23.0 0.32.0
enable-batch-sharded-sampling switch 0.32.0
enable-chunked-prefill switch 0.11.0 0.18.0 0.23.0 0.32.0
enable-cumem-allocator switch 0.23.0 0.32.0
enable-dbo switch 0.11.0 0.18.0 0.23.0 0.32.0
enable-elastic-ep switch 0.18.0 0.23.0 0.32.0
enable-ep-weight-filter switch 0.18.0 0.23.0 0.32.0
enable-eplb switch 0.11.0 0.18.0 0.23.0 0.32.0
enable-expert-parallel switch 0.11.0 0.18.0 0.23.0 0.32.0
enable-fault-tolerance switch 0.32.0
enable-flash-late-interaction switch 0.23.0 0.32.0
enable-flashinfer-autotune switch 0.18.0 0.23.0 0.32.0
enable-force-include-usage switch 0.11.0 0.18.0 0.23.0 0.32.0
enable-hc-sp switch 0.32.0
enable-layerwise-nvtx-tracing switch 0.18.0 0.23.0 0.32.0
enable-log-deltas switch 0.18.0 0.23.0 0.32.0
enable-log-outputs switch 0.11.0 0.18.0 0.23.0 0.32.0
enable-log-requests switch 0.11.0 0.18.0 0.23.0 0.32.0
enable-logging-iteration-details switch 0.18.0 0.23.0 0.32.0
enable-lora switch 0.11.0 0.18.0 0.23.0 0.32.0
enable-lora-bias switch 0.11.0
enable-mamba-cache-stochastic-rounding switch 0.23.0 0.32.0
enable-mamba-shared-prefix-checkpoint switch 0.32.0
enable-mfu-metrics switch 0.18.0 0.23.0 0.32.0
enable-mixed-moe-lora-format switch 0.23.0 0.32.0
enable-mm-embeds switch 0.18.0 0.23.0 0.32.0
enable-moe-shared-loras switch 0.32.0
enable-multimodal-encoder-data-parallel bare 0.11.0
enable-nccl-comm-suspend switch 0.32.0
enable-offline-docs switch 0.18.0 0.23.0 0.32.0
enable-per-request-metrics switch 0.32.0
enable-prefix-caching switch 0.11.0 0.18.0 0.23.0 0.32.0
enable-prompt-embeds switch 0.11.0 0.18.0 0.23.0 0.32.0
enable-prompt-tokens-details switch 0.11.0 0.18.0 0.23.0 0.32.0
enable-request-id-headers switch 0.11.0 0.18.0 0.23.0 0.32.0
enable-return-routed-experts switch 0.18.0 0.23.0 0.32.0
enable-scale-out switch 0.32.0
enable-server-load-tracking switch 0.11.0 0.18.0 0.23.0 0.32.0
enable-shm-tensor-arena switch 0.32.0
enable-sleep-mode switch 0.11.0 0.18.0 0.23.0 0.32.0
enable-ssl-refresh switch 0.11.0 0.18.0 0.23.0 0.32.0
enable-tokenizer-info-endpoint switch 0.11.0 0.18.0 0.23.0 0.32.0
enable-tower-connector-lora switch 0.18.0 0.23.0 0.32.0
enable-trace-replay switch 0.32.0
enforce-eager switch 0.11.0 0.18.0 0.23.0 0.32.0
engram-config value 0.32.0
eplb-config value 0.11.0 0.18.0 0.23.0 0.32.0
eplb-log-balancedness switch 0.11.0
eplb-step-interval value 0.11.0
eplb-window-size value 0.11.0
exclude-tools-when-tool-choice-none switch 0.11.0 0.18.0 0.23.0 0.32.0
expert-placement-strategy value 0.11.0 0.18.0 0.23.0 0.32.0
fail-on-environ-validation switch 0.18.0 0.23.0 0.32.0
fault-tolerance-config value 0.32.0
fingerprint-mode value 0.23.0 0.32.0
fingerprint-value value 0.23.0 0.32.0
fully-sharded-loras switch 0.11.0 0.18.0 0.23.0 0.32.0
gdn-prefill-backend value 0.18.0 0.23.0 0.32.0
generation-config value 0.11.0 0.18.0 0.23.0 0.32.0
gpu-memory-utilization value 0.11.0 0.18.0 0.23.0 0.32.0
grpc bare 0.18.0 0.23.0 0.32.0
grpc-port value 0.32.0
guided-decoding-backend value 0.11.0
guided-decoding-disable-additional-properties value 0.11.0
guided-decoding-disable-any-whitespace value 0.11.0
guided-decoding-disable-fallback value 0.11.0
h11-max-header-count value 0.11.0 0.18.0 0.23.0 0.32.0
h11-max-incomplete-event-size value 0.11.0 0.18.0 0.23.0 0.32.0
headless bare 0.11.0 0.18.0 0.23.0 0.32.0
hf-config-path value 0.11.0 0.18.0 0.23.0 0.32.0
hf-overrides value 0.11.0 0.18.0 0.23.0 0.32.0
hf-token value 0.11.0 0.18.0 0.23.0 0.32.0
host value 0.11.0 0.18.0 0.23.0 0.32.0
ignore-patterns value 0.11.0 0.18.0 0.23.0 0.32.0
interleave-mm-strings switch 0.11.0 0.18.0 0.23.0 0.32.0
io-processor-plugin value 0.11.0 0.18.0 0.23.0 0.32.0
ir-op-priority value 0.23.0 0.32.0
jit-monitor-mode value 0.32.0
jit-monitor-verbose switch 0.32.0
kda-decode-backend value 0.32.0
kda-prefill-backend value 0.32.0
kernel-config value 0.18.0 0.23.0 0.32.0
kv-cache-dtype value 0.11.0 0.18.0 0.23.0 0.32.0
kv-cache-dtype-skip-layers value 0.23.0 0.32.0
kv-cache-memory-bytes value 0.11.0 0.18.0 0.23.0 0.32.0
kv-cache-metrics switch 0.18.0 0.23.0 0.32.0
kv-cache-metrics-sample value 0.18.0 0.23.0 0.32.0
kv-events-config value 0.11.0 0.18.0 0.23.0 0.32.0
kv-offloading-backend value 0.18.0 0.23.0 0.32.0
kv-offloading-size value 0.18.0 0.23.0 0.32.0
kv-sharing-fast-prefill switch 0.11.0 0.18.0 0.23.0 0.32.0
kv-transfer-config value 0.11.0 0.18.0 0.23.0 0.32.0
language-model-only switch 0.18.0 0.23.0 0.32.0
limit-mm-per-prompt value 0.11.0 0.18.0 0.23.0 0.32.0
linear-backend value 0.23.0 0.32.0
load-format value 0.11.0 0.18.0 0.23.0 0.32.0
log-config-file value 0.11.0 0.18.0 0.23.0 0.32.0
log-error-stack switch 0.11.0 0.18.0 0.23.0 0.32.0
log-level value 0.32.0
logging-config value 0.32.0
logits-processor-pattern value 0.11.0
logits-processors value 0.11.0 0.18.0 0.23.0 0.32.0
logprobs-mode value 0.11.0 0.18.0 0.23.0 0.32.0
long-prefill-token-threshold value 0.11.0 0.18.0 0.23.0 0.32.0
long-prefill-token-threshold-adaptive switch 0.32.0
lora-dtype value 0.11.0 0.18.0 0.23.0 0.32.0
lora-extra-vocab-size value 0.11.0
lora-modules value 0.11.0 0.18.0 0.23.0 0.32.0
lora-target-modules value 0.23.0 0.32.0
mamba-backend value 0.23.0 0.32.0
mamba-block-size value 0.18.0 0.23.0 0.32.0
mamba-cache-dtype value 0.11.0 0.18.0 0.23.0 0.32.0
mamba-cache-mode value 0.18.0 0.23.0 0.32.0
mamba-cache-philox-rounds value 0.23.0 0.32.0
mamba-ssm-cache-dtype value 0.11.0 0.18.0 0.23.0 0.32.0
mamba-ssu-algorithm value 0.32.0
master-addr value 0.18.0 0.23.0 0.32.0
master-port value 0.18.0 0.23.0 0.32.0
max-cpu-loras value 0.11.0 0.18.0 0.23.0 0.32.0
max-cudagraph-capture-size value 0.18.0 0.23.0 0.32.0
max-log-len value 0.11.0 0.18.0 0.23.0 0.32.0
max-logprobs value 0.11.0 0.18.0 0.23.0 0.32.0
max-long-partial-prefills value 0.11.0 0.18.0 0.23.0
max-lora-cls-labels value 0.32.0
max-lora-rank value 0.11.0 0.18.0 0.23.0 0.32.0
max-loras value 0.11.0 0.18.0 0.23.0 0.32.0
max-model-len value 0.11.0 0.18.0 0.23.0 0.32.0
max-num-active-seqs value 0.32.0
max-num-batched-tokens value 0.11.0 0.18.0 0.23.0 0.32.0
max-num-partial-prefills value 0.11.0 0.18.0 0.23.0
max-num-queued-reqs value 0.32.0
max-num-queued-tokens value 0.32.0
max-num-scheduled-tokens value 0.32.0
max-num-seqs value 0.11.0 0.18.0 0.23.0 0.32.0
max-parallel-loading-workers value 0.11.0 0.18.0 0.23.0 0.32.0
media-io-kwargs value 0.11.0 0.18.0 0.23.0 0.32.0
middleware value 0.11.0 0.18.0 0.23.0 0.32.0
mm-device-do-normalize switch 0.32.0
mm-encoder-attn-backend value 0.18.0 0.23.0 0.32.0
mm-encoder-attn-dtype value 0.23.0 0.32.0
mm-encoder-fp8-scale-path value 0.23.0 0.32.0
mm-encoder-fp8-scale-save-margin value 0.23.0 0.32.0
mm-encoder-fp8-scale-save-path value 0.23.0 0.32.0
mm-encoder-only switch 0.18.0 0.23.0 0.32.0
mm-encoder-tp-mode value 0.11.0 0.18.0 0.23.0 0.32.0
mm-hasher-algorithm value 0.32.0
mm-ipc-gpu-memory-gb value 0.32.0
mm-processor-cache-gb value 0.11.0 0.18.0 0.23.0 0.32.0
mm-processor-cache-type value 0.11.0 0.18.0 0.23.0 0.32.0
mm-processor-device value 0.32.0
mm-processor-kwargs value 0.11.0 0.18.0 0.23.0 0.32.0
mm-shm-cache-max-object-size-mb value 0.11.0 0.18.0 0.23.0 0.32.0
mm-tensor-ipc value 0.23.0 0.32.0
model value 0.11.0 0.18.0 0.23.0 0.32.0
model-class-overrides value 0.32.0
model-impl value 0.11.0 0.18.0 0.23.0 0.32.0
model-loader-extra-config value 0.11.0 0.18.0 0.23.0 0.32.0
moe-backend value 0.18.0 0.23.0 0.32.0
nnodes value 0.18.0 0.23.0 0.32.0
node-rank value 0.18.0 0.23.0 0.32.0
num-gpu-blocks-override value 0.11.0 0.18.0 0.23.0 0.32.0
num-lookahead-slots value 0.11.0
num-redundant-experts value 0.11.0
numa-bind switch 0.23.0 0.32.0
numa-bind-cpus value 0.23.0 0.32.0
numa-bind-nodes value 0.23.0 0.32.0
offload-backend value 0.18.0 0.23.0 0.32.0
offload-group-size value 0.18.0 0.23.0 0.32.0
offload-num-in-group value 0.18.0 0.23.0 0.32.0
offload-params value 0.18.0 0.23.0 0.32.0
offload-prefetch-step value 0.18.0 0.23.0 0.32.0
optimization-level value 0.18.0 0.23.0 0.32.0
otlp-traces-endpoint value 0.11.0 0.18.0 0.23.0 0.32.0
override-attention-dtype value 0.11.0 0.18.0 0.23.0
override-generation-config value 0.11.0 0.18.0 0.23.0 0.32.0
override-pooler-config value 0.11.0
per-request-spec-decode-metrics value 0.32.0
performance-mode value 0.18.0 0.23.0 0.32.0
pipeline-parallel-size value 0.11.0 0.18.0 0.23.0 0.32.0
pooler-config value 0.11.0 0.18.0 0.23.0 0.32.0
port value 0.11.0 0.18.0 0.23.0 0.32.0
prefill-context-parallel-size value 0.18.0 0.23.0 0.32.0
prefill-schedule-interval value 0.32.0
prefix-cache-retention-interval value 0.32.0
prefix-caching-hash-algo value 0.11.0 0.18.0 0.23.0 0.32.0
prefix-match-unit value 0.32.0
profiler-config value 0.18.0 0.23.0 0.32.0
pt-load-map-location value 0.11.0 0.18.0 0.23.0 0.32.0
quantization value 0.11.0 0.18.0 0.23.0 0.32.0
quantization-config value 0.23.0 0.32.0
ray-workers-use-nsight switch 0.11.0 0.18.0 0.23.0 0.32.0
reasoning-config value 0.23.0 0.32.0
reasoning-parser value 0.11.0 0.18.0 0.23.0 0.32.0
reasoning-parser-plugin value 0.18.0 0.23.0 0.32.0
renderer-num-workers value 0.23.0 0.32.0
replayssm-buffer-len value 0.32.0
response-role value 0.11.0 0.18.0 0.23.0 0.32.0
return-sampling-mask switch 0.32.0
return-tokens-as-token-ids switch 0.11.0 0.18.0 0.23.0 0.32.0
revision value 0.11.0 0.18.0 0.23.0 0.32.0
root-path value 0.11.0 0.18.0 0.23.0 0.32.0
rope-scaling value 0.11.0
rope-theta value 0.11.0
runner value 0.11.0 0.18.0 0.23.0 0.32.0
safetensors-load-strategy value 0.11.0 0.18.0 0.23.0 0.32.0
safetensors-prefetch-block-size value 0.23.0 0.32.0
safetensors-prefetch-num-threads value 0.23.0 0.32.0
scheduler-cls value 0.11.0 0.18.0 0.23.0 0.32.0
scheduler-reserve-full-isl switch 0.23.0 0.32.0
scheduling-policy value 0.11.0 0.18.0 0.23.0 0.32.0
seed value 0.11.0 0.18.0 0.23.0 0.32.0
served-model-name value 0.11.0 0.18.0 0.23.0 0.32.0
show-hidden-metrics-for-version value 0.11.0 0.18.0 0.23.0 0.32.0
shutdown-timeout value 0.18.0 0.23.0 0.32.0
skip-mm-profiling switch 0.11.0 0.18.0 0.23.0 0.32.0
skip-tokenizer-init switch 0.11.0 0.18.0 0.23.0 0.32.0
sleep-mode-offload-cudagraph switch 0.32.0
sleep-preserve-parameter-names value 0.32.0
sparse-indexer-topk-backend value 0.32.0
spec-method value 0.23.0 0.32.0
spec-model value 0.23.0 0.32.0
spec-tokens value 0.23.0 0.32.0
specialize-active-lora switch 0.18.0 0.23.0 0.32.0
speculative-config value 0.11.0 0.18.0 0.23.0 0.32.0
sse-keep-alive-interval value 0.32.0
ssl-ca-certs value 0.11.0 0.18.0 0.23.0 0.32.0
ssl-cert-reqs value 0.11.0 0.18.0 0.23.0 0.32.0
ssl-certfile value 0.11.0 0.18.0 0.23.0 0.32.0
ssl-ciphers value 0.18.0 0.23.0 0.32.0
ssl-keyfile value 0.11.0 0.18.0 0.23.0 0.32.0
stream-interval value 0.18.0 0.23.0 0.32.0
structured-outputs-config value 0.11.0 0.18.0 0.23.0 0.32.0
swa-bounded-replay switch 0.32.0
swap-space value 0.11.0
task value 0.11.0
tensor-parallel-size value 0.11.0 0.18.0 0.23.0 0.32.0
tokenizer value 0.11.0 0.18.0 0.23.0 0.32.0
tokenizer-mode value 0.11.0 0.18.0 0.23.0 0.32.0
tokenizer-revision value 0.11.0 0.18.0 0.23.0 0.32.0
tokens-only switch 0.18.0 0.23.0 0.32.0
tool-call-parser value 0.11.0 0.18.0 0.23.0 0.32.0
tool-parser-plugin value 0.11.0 0.18.0 0.23.0 0.32.0
tool-server value 0.11.0 0.18.0 0.23.0 0.32.0
tool-strict-level value 0.32.0
trust-remote-code switch 0.11.0 0.18.0 0.23.0 0.32.0
trust-request-chat-template switch 0.11.0 0.18.0 0.23.0 0.32.0
trust-request-mm-kwargs switch 0.32.0
ubatch-size value 0.18.0 0.23.0 0.32.0
uds value 0.11.0 0.18.0 0.23.0 0.32.0
use-fp64-gumbel switch 0.23.0 0.32.0
use-replayssm switch 0.32.0
use-tqdm-on-load switch 0.11.0 0.18.0 0.23.0 0.32.0
uvicorn-log-level value 0.11.0 0.18.0 0.23.0 0.32.0
video-pruning-method value 0.32.0
video-pruning-rate value 0.11.0 0.18.0 0.23.0 0.32.0
watermark value 0.32.0
watermark-config value 0.32.0
weight-transfer-config value 0.18.0 0.23.0 0.32.0
worker-cls value 0.11.0 0.18.0 0.23.0 0.32.0
worker-extension-cls value 0.11.0 0.18.0 0.23.0 0.32.0
"""


@lru_cache(maxsize=None)
def flags_of(version):
    """{flag without dashes: kind} of one version of vLLM, without one-letter aliases and ``--no-`` forms; empty for an unknown version."""
    rows = (line.split() for line in TABLE.splitlines())
    return {name: kind for name, kind, *versions in rows if version in versions}
