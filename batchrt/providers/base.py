"""What all models behind an API share: their client, and its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrt.providers.options import is_option
from batchrt.runnables.base import In, Out, Runnable

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from batchrt.limits.quota import Quota
    from batchrt.providers.http.client import Client

__all__ = ["Model"]


class Model(Runnable[In, Out]):
    """Be a runnable that asks a provider. May be used from several event loops."""

    _options: dict[str, Any]
    _client: Client

    def _takes(self, keyword: str) -> bool:
        return is_option(keyword)

    def _keyword_hint(self, keyword: str) -> str:
        return (
            f"no option of the API has that name; what only this server knows goes into "
            f"extra_body={{{keyword!r}: …}}"
        )

    def __repr__(self) -> str:
        if "_client" not in self.__dict__:  # a debugger looks at a constructor that failed
            return f"{type(self).__name__}()"
        origin = self._client.address.origin
        return f"{type(self).__name__}(model={self.model!r}, base_url={origin!r})"

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self._options["model"])

    @property
    def quota(self) -> Quota:
        """What admits its requests: limits, what is used of them, and whom to tell of what happens."""
        return self._client.quota_of(self.model)

    async def aclose(self) -> None:
        """Close the connections, and a `transport` that was handed in; the model is of no use afterwards.

        Not needed at exit: whoever lets go of a model loses nothing.
        """
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
