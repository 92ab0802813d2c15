"""The optimiser step of the policy, which may be called off until it is taken: under every engine.

DeepSpeed steps inside `backward`, before the callbacks that look at a step's loss and gradient. Here its engine is
made to wait, so that a bad step or a critic's warm-up holds the policy back as it does under DDP.
"""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType
from accelerate.utils.deepspeed import DeepSpeedEngineWrapper
from torch import Tensor, nn
from transformers import TrainerCallback

from rlcredit.errors import InputError


class PolicyStep(TrainerCallback):
    """The policy's next step, for the callbacks that are called before it.

    Args:
        accelerator: knows the engine.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    @property
    def _is_deepspeed(self) -> bool:
        return self._accelerator.distributed_type == DistributedType.DEEPSPEED

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """Have the engine wait. Raises: InputError for a stage of ZeRO that divides nothing."""
        if self._is_deepspeed:
            wrapped = self._accelerator.deepspeed_engine_wrapped
            self._accelerator.deepspeed_engine_wrapped = WaitingEngine(wrapped.engine)

    def on_optimizer_step(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """Called right after the optimiser's own `step`, which does nothing where an engine steps."""
        if self._is_deepspeed:
            self._accelerator.deepspeed_engine_wrapped.step()

    def drop(self, model: nn.Module) -> None:
        """Call the step off: the weights and the optimiser's state stay as they are."""
        if self._is_deepspeed:
            self._accelerator.deepspeed_engine_wrapped.drop()
        # A gradient scaler finds an overflow itself, and insists on gradients to look at.
        elif self._accelerator.scaler is None:
            model.zero_grad(set_to_none=True)


class WaitingEngine(DeepSpeedEngineWrapper):
    """accelerate's wrapper of a DeepSpeed engine with ZeRO, whose step is taken when it is asked for.

    Args:
        engine: of ZeRO stage 1, 2 or 3.
    """

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        if engine.zero_optimization_stage() == 0:
            raise InputError("zero_stage: 0 divides nothing; write 2 or 3, or launch with accelerate/ddp.yaml")
        self._optimizer = engine.optimizer
        self._dropped = False

    def backward(self, loss: Tensor, sync_gradients: bool = True, **kwargs: Any) -> None:
        self.engine.set_gradient_accumulation_boundary(is_boundary=sync_gradients)
        self.engine.backward(loss, **kwargs)

    def get_global_grad_norm(self) -> float:
        """The norm of the gradients of the step to come, before clipping; inf where one is not finite."""
        optimizer = self._optimizer
        if self.engine.zero_optimization_partition_weights():
            from deepspeed.runtime.utils import combine_grad_norm_groups  # only where it is installed

            norm = combine_grad_norm_groups(optimizer._get_norm_groups())
        else:
            norm = optimizer.scaled_global_norm()
        return float(norm) / optimizer.loss_scale

    def drop(self) -> None:
        self._dropped = True

    def step(self) -> None:
        """Take the step, or forget its gradients as DeepSpeed does after an overflow."""
        dropped, self._dropped = self._dropped, False
        if not dropped:
            self.engine.step()
            return
        optimizer = self._optimizer
        if self.engine.zero_optimization_partition_weights():
            optimizer._pre_step()
            optimizer._partition_all_parameters()
            optimizer._overflow_clean_up(optimizer.loss_scale)
            return
        optimizer.micro_step_id = -1
        optimizer.zero_grad(set_to_none=True)
        optimizer._release_preflattened_grad_buffers()
        if optimizer.cpu_offload:
            optimizer._wait_for_offload_copies()
            optimizer._offload_accumulated_param_ids = set()
            optimizer.reset_cpu_buffers()
        else:
            for group in optimizer.averaged_gradients:
                optimizer.averaged_gradients[group] = None
                optimizer.all_grad_tensors[group] = None
