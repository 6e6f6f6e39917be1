"""torch, eager: the same network as a Sequential, autograd, and the fused AdamW."""

from itertools import repeat

import torch
from torch import nn

from benchmarks.contenders.digits import DigitsContender
from benchmarks.digits import CLIP_NORM, DECAY, RATE, rates, start


class Torch(DigitsContender):
    @staticmethod
    def start(threads: int) -> None:
        torch.set_num_threads(threads)
        start()

    def compile(self) -> None:
        given = start()
        self.x, self.y = torch.from_numpy(given.x), torch.from_numpy(given.y)
        self.rows = [torch.from_numpy(rows) for rows in given.batches]

    def batches(self) -> list:
        return self.rows

    def begin(self) -> None:
        params, layers = start().params, []
        for k in range(len(params) // 2):
            weight, bias = params[f"W{k}"], params[f"b{k}"]
            linear = nn.Linear(*weight.shape)
            linear.weight.data = torch.from_numpy(weight.T.copy())
            linear.bias.data = torch.from_numpy(bias.copy())
            layers += [linear, nn.ReLU()]
        self.model = nn.Sequential(*layers[:-1])
        self.torch = torch.optim.AdamW(
            self.model.parameters(), lr=RATE, weight_decay=DECAY, fused=True
        )
        self.steps = 0

    def run(self, times: int) -> None:
        model, opt, x, y, loss = self.model, self.torch, self.x, self.y, nn.CrossEntropyLoss()
        parameters, (group,) = list(model.parameters()), opt.param_groups
        rate = rates(self.task.around)
        for rows in (next(self.order) for _ in repeat(None, times)):
            opt.zero_grad()
            value = loss(model(x[rows]), y[rows])
            value.backward()
            if self.task.around:
                nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
                group["lr"] = rate[min(self.steps, len(rate) - 1)]
                self.steps += 1
            opt.step()
        self.value = value

    def loss(self) -> float:
        return self.value.item()
