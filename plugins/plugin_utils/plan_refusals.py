# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Flags and variables that an instance may not carry: those that the plan decides, and those that open the node, each with what it opens.

Held to the parsers and the variables (``vllm/envs.py``) of every paired version of vLLM by tests/parser.
"""

from __future__ import annotations

PLANNED_FLAGS = frozenset(
    """host port uds headless api-server-count tensor-parallel-size pipeline-parallel-size data-parallel-size
    data-parallel-size-local data-parallel-address data-parallel-rpc-port data-parallel-start-rank data-parallel-rank
    data-parallel-backend data-parallel-hybrid-lb data-parallel-external-lb data-parallel-multi-port-external-lb
    data-parallel-supervisor-port enable-expert-parallel distributed-executor-backend nnodes node-rank master-addr master-port
    served-model-name model api-key ssl-keyfile ssl-certfile ssl-ca-certs ssl-cert-reqs root-path device-ids""".split()
)
DANGEROUS_FLAGS = {
    "config": "reads further flags from a file, past every check of the plan",
    "trust-remote-code": "runs code that comes with the model; for vetted code the instance has a trust_remote_code of its own",
    "tool-server": "runs code that a model writes",
    "middleware": "imports code by name into the API server",
    "tool-parser-plugin": "imports code by path into the API server",
    "reasoning-parser-plugin": "imports code by path into the API server",
    "io-processor-plugin": "imports code by name into the engine",
    "logits-processors": "imports code by name into the engine",
    "logits-processor-pattern": "lets clients name code that the engine imports",
    "worker-extension-cls": "imports code by name into the engine",
    "worker-cls": "imports code by name into the engine",
    "scheduler-cls": "imports code by name into the engine",
    "model-class-overrides": "imports code by name into the engine",
    "log-config-file": "reads a logging configuration, which can call any code",
    "logging-config": "is a logging configuration, which can call any code",
    "allowed-local-media-path": "lets clients read files of the node",
    "enable-log-requests": "writes prompts to the journal",
    "enable-log-outputs": "writes answers to the journal",
    "enable-log-deltas": "writes answers to the journal",
    "disable-log-requests": "is obsolete; requests are not logged",
    "enable-prompt-embeds": "deserialises tensors that clients send",
    "enable-mm-embeds": "deserialises tensors that clients send",
    "trust-request-chat-template": "renders templates that clients send",
    "trust-request-mm-kwargs": "takes settings of the engine from clients",
    "profiler-config": "adds endpoints that write traces",
    "ray-workers-use-nsight": "writes traces",
    "collect-detailed-traces": "writes traces",
    "otlp-traces-endpoint": "sends traces to another host",
    "enable-tokenizer-info-endpoint": "adds an endpoint that shows the chat template",
    "enable-offline-docs": "describes the API to strangers",
    "enable-elastic-ep": "adds endpoints that change the engine",
    "enable-fault-tolerance": "adds endpoints that change the engine",
    "fault-tolerance-config": "adds endpoints that change the engine",
    "weight-transfer-config": "adds endpoints that replace the weights",
    "enable-scale-out": "changes what the plan counts on",
    "grpc": "opens a second, unauthenticated API",
    "grpc-port": "opens a second, unauthenticated API",
    "kv-events-config": "publishes token ids on every interface",
    "kv-transfer-config": "opens listeners that the plan does not know, some on every interface, and imports code by name",
    "kv-offloading-backend": "opens listeners that the plan does not know",
    "ec-transfer-config": "opens listeners that the plan does not know, and imports code by name",
    "ec-manager-config": "opens listeners that the plan does not know, and imports code by name",
    "model-loader-extra-config": "can open listeners and fetch weights from other hosts",
    "h11-max-header-count": "widens what one request may cost before it is refused",
    "h11-max-incomplete-event-size": "widens what one request may cost before it is refused",
    "hf-token": "is a secret, which would stand in the process list",
    "allow-credentials": "lets pages of other sites use the API",
    "allowed-origins": "lets pages of other sites use the API",
    "code-revision": "has no use without remote code",
}
DANGEROUS_ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "adds endpoints that call arbitrary methods of the workers",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "accepts pickles from the network",
    "VLLM_USE_V1": "can bring back the engine whose workers unpickle what they are sent",
    "VLLM_TORCH_PROFILER_DIR": "adds endpoints that write traces",
    "VLLM_TORCH_PROFILER_RECORD_SHAPES": "belongs to the profiler",
    "VLLM_TORCH_PROFILER_WITH_PROFILE_MEMORY": "belongs to the profiler",
    "VLLM_TORCH_PROFILER_WITH_STACK": "belongs to the profiler",
    "VLLM_TORCH_PROFILER_WITH_FLOPS": "belongs to the profiler",
    "VLLM_TORCH_CUDA_PROFILE": "belongs to the profiler",
    "VLLM_PROFILER_DELAY_ITERS": "belongs to the profiler",
    "VLLM_PROFILER_MAX_ITERS": "belongs to the profiler",
    "VLLM_TORCH_PROFILER_DISABLE_ASYNC_LLM": "belongs to the profiler",
    "VLLM_TORCH_PROFILER_USE_GZIP": "belongs to the profiler",
    "VLLM_TORCH_PROFILER_DUMP_CUDA_TIME_TOTAL": "belongs to the profiler",
    "VLLM_TRACE_FUNCTION": "writes every call of the engine to files",
    "VLLM_DEBUG_DUMP_PATH": "writes what the engine computes to files",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "lets clients load adapters from paths",
    "VLLM_LORA_RESOLVER_CACHE_DIR": "lets clients load adapters from a directory",
    "VLLM_LORA_RESOLVER_HF_REPO_LIST": "lets clients load adapters from the internet",
    "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "writes answers to the journal",
    "VLLM_ENABLE_COHERE_API": "adds endpoints",
    "VLLM_ENABLE_RESPONSES_API_STORE": "keeps answers for whoever asks for them",
    "VLLM_GPT_OSS_SYSTEM_TOOL_MCP_LABELS": "lets models call tools",
    "GPT_OSS_SYSTEM_TOOL_MCP_LABELS": "lets models call tools",
    "VLLM_GPT_OSS_USE_CONTAINER_TOOL": "lets models call tools",
    "VLLM_MEDIA_CONNECTOR": "imports code by name into the API server",
    "VLLM_LOGGING_CONFIG_PATH": "reads a logging configuration, which can call any code",
    "VLLM_CUDART_SO_PATH": "loads code into every process",
    "VLLM_NCCL_SO_PATH": "loads code into every process",
    "VLLM_RUST_FRONTEND_PATH": "runs another program in place of the API server",
    "VLLM_USE_RUST_FRONTEND": "runs another program in place of the API server",
    "VLLM_MODEL_REDIRECT_PATH": "serves another model than the plan names",
    "VLLM_USE_MODELSCOPE": "fetches models from the internet",
    "VLLM_USAGE_STATS_SERVER": "names a server to which the engine reports",
    "VLLM_RAY_EXTRA_ENV_VARS_TO_COPY": "hands secrets of the unit to other nodes",
    "VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY": "hands secrets of the unit to other nodes",
    "VLLM_NIXL_SIDE_CHANNEL_HOST": "belongs to a listener that the plan does not know",
    "VLLM_NIXL_SIDE_CHANNEL_PORT": "belongs to a listener that the plan does not know",
    "VLLM_MOONCAKE_BOOTSTRAP_PORT": "belongs to a listener on every interface that the plan does not know",
    "VLLM_MORIIO_CONNECTOR_READ_MODE": "belongs to a listener that the plan does not know",
    "VLLM_P2P_SIDE_CHANNEL_HOST": "belongs to a listener that the plan does not know",
    "VLLM_P2P_SIDE_CHANNEL_PORT": "belongs to a listener that the plan does not know",
    "VLLM_EC_SIDE_CHANNEL_HOST": "belongs to a listener that the plan does not know",
    "VLLM_EC_SIDE_CHANNEL_PORT": "belongs to a listener that the plan does not know",
    "VLLM_API_KEY": "puts a secret into an environment that the unit file shows",
    "HF_TOKEN": "puts a secret into an environment that the unit file shows",
    "HUGGING_FACE_HUB_TOKEN": "puts a secret into an environment that the unit file shows",
    "S3_ACCESS_KEY_ID": "puts a secret into an environment that the unit file shows",
    "S3_SECRET_ACCESS_KEY": "puts a secret into an environment that the unit file shows",
    "S3_ENDPOINT_URL": "fetches models from another host",
    "VLLM_CI_USE_S3": "fetches models from another host",
    "HF_ENDPOINT": "fetches models from another host",
    "VLLM_PORT": "hangs vLLM 0.11.0 with data parallel; the plan pins the ephemeral range instead",
    "MS_ROLE": "starts MindSpore's unauthenticated scheduler",
    "MS_SCHED_HOST": "starts MindSpore's unauthenticated scheduler",
    "MS_SCHED_PORT": "starts MindSpore's unauthenticated scheduler",
    "MS_WORKER_IP": "moves MindSpore's listeners off the planned address",
    "HCCL_HOST_SOCKET_PORT_RANGE": "moves HCCL's ports away from the planned ones",
    "LCAL_COMM_ID": "opens a listener that the plan does not know",
    "MINDFORMERS_MODEL_CONFIG": "stops vllm_mindspore 0.5, which reads the model's own configuration",
    "LD_PRELOAD": "loads code into every process",
    "LD_AUDIT": "loads code into every process",
    "LD_LIBRARY_PATH": "loads code into every process; the unit takes that of the toolkit",
    "PYTHONPATH": "loads code into every process",
    "PYTHONHOME": "loads code into every process",
    "PYTHONSTARTUP": "loads code into every process",
}
PLANNED_ENVIRONMENT = frozenset(
    """VLLM_HOST_IP VLLM_LOOPBACK_IP VLLM_DP_MASTER_IP VLLM_DP_MASTER_PORT VLLM_DP_RANK VLLM_DP_RANK_LOCAL VLLM_DP_SIZE LOCAL_RANK
    VLLM_NO_USAGE_STATS VLLM_DO_NOT_TRACK DO_NOT_TRACK HF_HUB_OFFLINE TRANSFORMERS_OFFLINE HF_HUB_DISABLE_TELEMETRY
    VLLM_MEDIA_URL_ALLOW_REDIRECTS GLOO_SOCKET_IFNAME TP_SOCKET_IFNAME HCCL_IF_IP HCCL_SOCKET_IFNAME HCCL_IF_BASE_PORT
    ASCEND_RT_VISIBLE_DEVICES VLLM_RPC_BASE_PATH VLLM_CACHE_ROOT VLLM_CONFIG_ROOT HOME HF_HOME XDG_CACHE_HOME
    PYTHONNOUSERSITE PYTHONSAFEPATH RAY_ADDRESS RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_AUTH_TOKEN_PATH RAY_USAGE_STATS_ENABLED RAY_TMPDIR
    RAY_USE_TLS RAY_TLS_SERVER_CERT RAY_TLS_SERVER_KEY RAY_TLS_CA_CERT
    AUTOSCALER_METRIC_PORT DASHBOARD_METRIC_PORT""".split()
)
