"""The networks that are called once a picture: text encoder, hint encoder, decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from engines.backends.triton import ops
from engines.backends.triton.blocks import Resnet, Upsample, channels_last, padded_inputs, padded_outputs
from engines.backends.triton.parameters import Norm, Parameters

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


class Clip:
    """input_ids [N,77] -> last_hidden_state [N,77,C]: CLIP's text transformer, after its final layer norm."""

    def __init__(self, at: Parameters) -> None:
        text = at.at("text_encoder")
        text = text.at("text_model") if "text_model" in text else text
        self._tokens = text.at("embeddings").at("token_embedding").weight
        self._positions = text.at("embeddings").at("position_embedding").weight
        layers = text.at("encoder").at("layers")
        activation = layers.at(0).at("mlp").setting("activation")
        self._layers = [_ClipLayer(layers.at(i), activation) for i in range(text.at("encoder").count("layers"))]
        self._norm = text.at("final_layer_norm").norm

    def __call__(self, ids: Tensor) -> Tensor:
        """int64 in, the weights' dtype out."""
        x = self._tokens[ids] + self._positions[: ids.shape[1]]
        for layer in self._layers:
            x = layer(x)
        return _norm(x, self._norm)


class _ClipLayer:
    def __init__(self, at: Parameters, activation: str) -> None:
        own, feed = at.at("self_attn"), at.at("mlp")
        self._heads = own.setting("heads")
        names = ("q_proj", "k_proj", "v_proj")
        self._weight = torch.cat([own.at(name).weight for name in names])
        self._bias = torch.cat([own.at(name)["bias"] for name in names])
        self._out, self._up, self._down = own.at("out_proj").linear, feed.at("fc1").linear, feed.at("fc2").linear
        self._norms = [at.at(f"layer_norm{i}").norm for i in (1, 2)]
        self._activation = ACTIVATIONS[activation]

    def __call__(self, x: Tensor) -> Tensor:
        parts = functional.linear(_norm(x, self._norms[0]), self._weight, self._bias).chunk(3, dim=-1)
        query, key, value = (ops.by_head(part, self._heads) for part in parts)
        h = functional.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
        x = x + functional.linear(h, *self._out)
        h = self._activation(functional.linear(_norm(x, self._norms[1]), *self._up))
        return x + functional.linear(h, *self._down)


def _norm(x: Tensor, norm: Norm) -> Tensor:
    return functional.layer_norm(x.float(), x.shape[-1:], norm.gamma, norm.beta, norm.eps).to(x.dtype)


class Hint:
    """hint [N,H,W,3] in 0..1 -> guided_hint [N,h,w,C]: eight convolutions, three of them with stride 2."""

    def __init__(self, at: Parameters) -> None:
        names = ["conv_in", *(f"blocks.{i}" for i in range(at.at("embedding").count("blocks"))), "conv_out"]
        places = [at.at("embedding").at(name) for name in names]
        self._convolutions = [(channels_last(place.weight), place["bias"]) for place in places]

    def __call__(self, hint: Tensor) -> Tensor:
        """Every second of the blocks halves the picture."""
        x = hint.permute(0, 3, 1, 2)
        last = len(self._convolutions) - 1
        for i, (weight, bias) in enumerate(self._convolutions):
            halves = 0 < i < last and i % 2 == 0
            x = functional.conv2d(x, weight, bias, stride=2 if halves else 1, padding=1)
            x = x if i == last else functional.silu(x)
        return x.permute(0, 2, 3, 1).contiguous()


class Decoder:
    """latent [N,h,w,4], divided by the scaling factor already -> image [N,8h,8w,3]."""

    def __init__(self, at: Parameters) -> None:
        post_quant = at.at("post_quant")
        self._before, self._bias_before = post_quant.matrix, post_quant["bias"]
        at = at.at("decoder")
        self._conv_in = padded_inputs(at.at("conv_in").weight)
        middle = at.at("mid_block")
        self._first = Resnet(middle.at("resnets").at(0), at.at("conv_in").bias)
        self._attend = _PictureAttention(middle.at("attentions").at(0), self._first.pending)
        self._last = Resnet(middle.at("resnets").at(1), self._attend.pending)
        pending = self._last.pending
        self._levels: list[tuple[list[Resnet], Upsample | None]] = []
        for level in range(at.count("up_blocks")):
            block = at.at("up_blocks").at(level)
            resnets = []
            for i in range(block.count("resnets")):
                resnets.append(Resnet(block.at("resnets").at(i), pending))
                pending = resnets[-1].pending
            up = Upsample(block.at("upsamplers").at(0), pending) if "upsamplers" in block else None
            pending = pending if up is None else up.pending
            self._levels.append((resnets, up))
        self._norm_out, self._pending_out = at.at("conv_norm_out").norm, pending
        self._conv_out, self._bias_out = padded_outputs(at.at("conv_out").weight), at.at("conv_out").bias

    def __call__(self, latent: Tensor) -> Tensor:
        """About -1..1."""
        x = latent @ self._before + self._bias_before
        x = ops.convolved(functional.pad(x, (0, self._conv_in.shape[1] - x.shape[3])), self._conv_in)
        x = self._last(self._attend(self._first(x)))
        for resnets, up in self._levels:
            for resnet in resnets:
                x = resnet(x)
            x = x if up is None else up(x)
        x = ops.group_norm(x, self._pending_out, self._norm_out, silu=True)
        return ops.convolved(x, self._conv_out)[..., : self._bias_out.shape[0]] + self._bias_out.to(x.dtype)


class _PictureAttention:
    """GroupNorm, attention with one head over all pixels, and the way around them.

    One head of 512 channels is more than fused attention takes; as two products and a softmax it is as fast.
    """

    def __init__(self, at: Parameters, pending: Tensor) -> None:
        names = ("to_q", "to_k", "to_v")
        self._pending_in, self._norm = pending, at.at("group_norm").norm
        self._weight = torch.cat([at.at(name).weight for name in names])
        self._bias = torch.cat([at.at(name)["bias"] for name in names])
        out = at.at("to_out").at(0)
        self._out, self.pending = out.matrix, pending + out.bias

    def __call__(self, x: Tensor) -> Tensor:
        """[N,H,W,C], written in place."""
        n = ops.group_norm(x, self._pending_in, self._norm, silu=False).flatten(1, 2)
        query, key, value = functional.linear(n, self._weight, self._bias).chunk(3, dim=-1)
        # The scale inside the product: unscaled scores can be too large for float16.
        scores = torch.baddbmm(
            query.new_empty(1, 1, 1), query, key.transpose(1, 2), beta=0, alpha=query.shape[-1] ** -0.5
        )
        h = torch.bmm(torch.softmax(scores, dim=-1), value)
        x.view(-1, x.shape[3]).addmm_(h.view(-1, h.shape[2]), self._out)
        return x
