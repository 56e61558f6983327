#!/usr/bin/env python3
"""Writes the gemma fixture: a tiny random model in both forms, and what it computes.

    tests/tools/make_gemma.py           writes tests/data/arch/hf/gemma and tests/data/arch/gguf/gemma.gguf

The forward pass below is written from the model's definition in plain Python and double precision,
token by token with a cache, and shares nothing with the program that is tested against it. Weights
have few values, all exact in bfloat16, so that the files compress.
"""
import json
import math
import os
import random
import struct

WIDTH, HEADS, KV_HEADS, HEAD_DIM, FF, LAYERS, VOCAB = 64, 4, 1, 32, 128, 3, 320
PROMPT, GREEDY = 48, 16
EPS, THETA, CONTEXT = 1e-6, 10000.0, 512
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "arch")

rng = random.Random(20251125)


def matrix(rows, cols, unit):
    return [[rng.randint(-3, 3) * unit for _ in range(cols)] for _ in range(rows)]


def norm_weight():
    return [rng.randint(-4, 4) / 16 for _ in range(WIDTH)]


def make_weights():
    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    weights = {"model.embed_tokens": matrix(VOCAB, WIDTH, 1 / 32)}
    for i in range(LAYERS):
        p = "model.layers.%d." % i
        weights[p + "input_layernorm"] = norm_weight()
        weights[p + "self_attn.q_proj"] = matrix(q, WIDTH, 1 / 16)
        weights[p + "self_attn.k_proj"] = matrix(kv, WIDTH, 1 / 16)
        weights[p + "self_attn.v_proj"] = matrix(kv, WIDTH, 1 / 16)
        weights[p + "self_attn.o_proj"] = matrix(WIDTH, q, 1 / 16)
        weights[p + "post_attention_layernorm"] = norm_weight()
        weights[p + "mlp.gate_proj"] = matrix(FF, WIDTH, 1 / 16)
        weights[p + "mlp.up_proj"] = matrix(FF, WIDTH, 1 / 16)
        weights[p + "mlp.down_proj"] = matrix(WIDTH, FF, 1 / 32)
    weights["model.norm"] = norm_weight()
    return weights


# --- the model ---


def times(rows, x):
    return [sum(a * b for a, b in zip(row, x)) for row in rows]


def rms_norm(x, w):
    scale = 1 / math.sqrt(sum(a * a for a in x) / len(x) + EPS)
    return [a * scale * (1 + b) for a, b in zip(x, w)]


def rotate(head, position):
    """Column i turns with column i + half."""
    half = HEAD_DIM // 2
    out = list(head)
    for i in range(half):
        angle = position * THETA ** (-2 * i / HEAD_DIM)
        c, s = math.cos(angle), math.sin(angle)
        out[i] = head[i] * c - head[i + half] * s
        out[i + half] = head[i + half] * c + head[i] * s
    return out


def gelu_tanh(x):
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(scores):
    top = max(scores)
    exps = [math.exp(s - top) for s in scores]
    total = sum(exps)
    return [e / total for e in exps]


def heads(x):
    return [x[i : i + HEAD_DIM] for i in range(0, len(x), HEAD_DIM)]


def attention(w, p, x, position, cache):
    query = [rotate(h, position) for h in heads(times(w[p + "q_proj"], x))]
    keys, values = cache
    keys.append([rotate(h, position) for h in heads(times(w[p + "k_proj"], x))])
    values.append(heads(times(w[p + "v_proj"], x)))
    out = []
    for h, q in enumerate(query):
        kv = h * KV_HEADS // HEADS
        scores = [sum(a * b for a, b in zip(q, k[kv])) / math.sqrt(HEAD_DIM) for k in keys]
        shares = softmax(scores)
        out += [sum(s * v[kv][i] for s, v in zip(shares, values)) for i in range(HEAD_DIM)]
    return times(w[p + "o_proj"], out)


def step(w, token, position, caches):
    """The logits behind one more token."""
    x = [a * math.sqrt(WIDTH) for a in w["model.embed_tokens"][token]]
    for i in range(LAYERS):
        p = "model.layers.%d." % i
        normed = rms_norm(x, w[p + "input_layernorm"])
        x = [a + b for a, b in zip(x, attention(w, p + "self_attn.", normed, position, caches[i]))]
        normed = rms_norm(x, w[p + "post_attention_layernorm"])
        gate = [gelu_tanh(a) for a in times(w[p + "mlp.gate_proj"], normed)]
        up = times(w[p + "mlp.up_proj"], normed)
        down = times(w[p + "mlp.down_proj"], [a * b for a, b in zip(gate, up)])
        x = [a + b for a, b in zip(x, down)]
    return times(w["model.embed_tokens"], rms_norm(x, w["model.norm"]))


def compute(w):
    ids = [2] + [rng.randrange(VOCAB) for _ in range(PROMPT - 1)]
    caches = [([], []) for _ in range(LAYERS)]
    logits = [step(w, token, i, caches) for i, token in enumerate(ids)]
    greedy, margins, last = [], [], logits[-1]
    for i in range(GREEDY):
        best = max(range(VOCAB), key=lambda t: last[t])
        ordered = sorted(softmax(last))
        greedy.append(best)
        margins.append(ordered[-1] - ordered[-2])
        last = step(w, best, PROMPT + i, caches)
    return ids, logits, greedy, margins


# --- files ---


def flat(tensor):
    return [v for row in tensor for v in row] if isinstance(tensor[0], list) else tensor


def shape(tensor):
    return [len(tensor), len(tensor[0])] if isinstance(tensor[0], list) else [len(tensor)]


def pack(kind, values):
    if kind == "BF16":
        data = b"".join(struct.pack("<f", v)[2:] for v in values)
        assert all(struct.pack("<f", v)[:2] == b"\0\0" for v in values)
        return data
    return struct.pack("<%d%s" % (len(values), {"F32": "f", "I32": "i"}[kind]), *values)


def write_safetensors(path, tensors):
    header, blob = {}, b""
    for name, (kind, dims, values) in tensors.items():
        data = pack(kind, values)
        header[name] = {"dtype": kind, "shape": dims, "data_offsets": [len(blob), len(blob) + len(data)]}
        blob += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + blob)


U32, F32, STRING = 4, 6, 8
TYPE_F32, TYPE_BF16 = 0, 30


def gguf_string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def gguf_names(weights):
    """Names and order of the GGUF form. Its norms have the 1 added."""
    below = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for name, tensor in weights.items():
        if name == "model.embed_tokens":
            yield "token_embd.weight", tensor
        elif name == "model.norm":
            yield "output_norm.weight", [1 + v for v in tensor]
        else:
            _, _, layer, role = name.split(".", 3)
            norm = role.endswith("layernorm")
            yield "blk.%s.%s.weight" % (layer, below[role]), [1 + v for v in tensor] if norm else tensor


def write_gguf(path, weights):
    metadata = [
        ("general.architecture", STRING, "gemma"), ("general.name", STRING, "gemma"),
        ("gemma.context_length", U32, CONTEXT), ("gemma.embedding_length", U32, WIDTH),
        ("gemma.block_count", U32, LAYERS), ("gemma.feed_forward_length", U32, FF),
        ("gemma.attention.head_count", U32, HEADS), ("gemma.attention.head_count_kv", U32, KV_HEADS),
        ("gemma.attention.key_length", U32, HEAD_DIM), ("gemma.attention.value_length", U32, HEAD_DIM),
        ("gemma.attention.layer_norm_rms_epsilon", F32, EPS),
    ]
    infos, blob = b"", b""
    tensors = list(gguf_names(weights))
    for name, tensor in tensors:
        dims = shape(tensor)[::-1]
        kind = TYPE_BF16 if len(dims) == 2 else TYPE_F32
        infos += gguf_string(name) + struct.pack("<I%dQIQ" % len(dims), len(dims), *dims, kind, len(blob))
        blob += pack("BF16" if kind == TYPE_BF16 else "F32", flat(tensor))
        blob += b"\0" * (-len(blob) % 32)
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, kind, value in metadata:
        out += gguf_string(key) + struct.pack("<I", kind)
        out += gguf_string(value) if kind == STRING else struct.pack("<f" if kind == F32 else "<I", value)
    out += infos
    out += b"\0" * (-len(out) % 32)
    with open(path, "wb") as f:
        f.write(out + blob)


def main():
    weights = make_weights()
    ids, logits, greedy, margins = compute(weights)
    folder = os.path.join(ROOT, "hf", "gemma")
    os.makedirs(folder, exist_ok=True)
    # As published configs of the first Gemma say it: "gelu", although the tanh form is meant.
    config = {
        "architectures": ["GemmaForCausalLM"], "model_type": "gemma", "hidden_act": "gelu",
        "hidden_size": WIDTH, "intermediate_size": FF, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
        "max_position_embeddings": CONTEXT, "rms_norm_eps": EPS, "rope_theta": THETA,
        "vocab_size": VOCAB, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
        "torch_dtype": "bfloat16",
    }
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
        f.write("\n")
    write_safetensors(os.path.join(folder, "model.safetensors"),
                      {n + ".weight": ("BF16", shape(t), flat(t)) for n, t in weights.items()})
    write_safetensors(os.path.join(folder, "reference.safetensors"), {
        "input_ids": ("I32", [PROMPT], ids),
        "logits": ("F32", [PROMPT, VOCAB], flat(logits)),
        "greedy_ids": ("I32", [GREEDY], greedy),
        "greedy_margin": ("F32", [GREEDY], margins),
    })
    write_gguf(os.path.join(ROOT, "gguf", "gemma.gguf"), weights)
    print("logits from %.3f to %.3f, margins from %.4f" %
          (min(map(min, logits)), max(map(max, logits)), min(margins)))


if __name__ == "__main__":
    main()
