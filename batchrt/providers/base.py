"""Base class of the models behind an API: their options, client and quota."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from batchrt.providers.options import LIMIT_OPTIONS, check_options, is_option
from batchrt.providers.pickled_models import PickledArguments, attributes_of, restored
from batchrt.runnables.base import In, Out, Runnable
from batchrt.runnables.description import Description, Part, part

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

    from batchrt.limits.quota import Quota
    from batchrt.providers.http.client import Client

__all__ = ["Model"]


_CLIENT_OPTIONS: Final = (
    *("base_url", "api_key", "organization", "project", "timeout", "max_retries", "http_client", "transport"),
    "ssl_context",
    "keepalive_expiry",
    *("extra_headers", "max_response_bytes", "quota", "retry_policy"),
)


_PARTS: Final = {"response_format": "schema"}


class Model(Runnable[In, Out]):
    """Send each input to a provider. May be used from several event loops."""

    _options: dict[str, Any]
    _client: Client

    def _connect(self, model: str, settings: Mapping[str, Any], **named: Any) -> None:
        """Make the client; `settings` are complete `ModelOptions`, `named` the constructor's other ones."""
        # Imported late: `import batchrt` must not load an HTTP library.
        from batchrt.providers.http.client import Client

        self._client = Client(
            **{name: settings[name] for name in _CLIENT_OPTIONS},
            limits={name: settings[name] for name in LIMIT_OPTIONS},
            model=model,
        )
        self._arguments = PickledArguments(settings, {"model": model, **named})

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the options, without the key: the process that loads them needs its own `OPENAI_API_KEY`.

        Raises:
            TypeError: a client, transport, TLS context or quota was given, or credentials in `extra_headers`
                or `base_url`.
        """
        arguments = self._arguments.get()
        owner = next(kind for kind in type(self).__mro__ if kind.__module__.startswith("batchrt."))
        own = attributes_of(owner)
        others = {name: value for name, value in vars(self).items() if name not in own}
        return restored, (type(self), owner, arguments, others)

    def __copy__(self) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self  # nothing in it changes, and a pickle has no key

    def _described(
        self, path: str, fields: Mapping[str, Any], render: Callable[[Any], bytes], *others: Part
    ) -> Description:
        """Return the description of requests to `path` whose bodies have `fields`; see `Runnable.describe`.

        Key, headers and limits are no part of it: they do not belong to the answer.
        """
        parts = [part(_PARTS.get(name, name), value) for name, value in fields.items()]
        endpoint = part("endpoint", (self._client.address.canonical, path))
        return Description((*parts, endpoint, *others), render, asks=True, model=str(fields["model"]))

    def _takes(self, keyword: str) -> bool:
        return is_option(keyword)

    def _keyword_hint(self, keyword: str) -> str:
        return (
            f"no option of the API has that name; what only this server knows goes into "
            f"extra_body={{{keyword!r}: …}}"
        )

    def _check_field(self, name: str) -> None:
        if name in ("model", "model_name"):
            return
        if not is_option(name):
            raise ValueError(f"{type(self).__name__} has no option {name!r}: {self._keyword_hint(name)}")
        check_options({name: None}, type(self).__name__)

    def _with_fields(self, values: Mapping[str, Any]) -> Runnable[In, Out]:
        # LCEL's name of the field and the API's.
        return self.bind(**{"model" if name == "model_name" else name: values[name] for name in values})

    def __repr__(self) -> str:
        if "_client" not in self.__dict__:  # a debugger may show an object whose constructor failed
            return f"{type(self).__name__}()"
        origin = self._client.address.origin
        return f"{type(self).__name__}(model={self.model!r}, base_url={origin!r})"

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self._options["model"])

    @property
    def base_url(self) -> str:
        """The API's address, without a user, password and query that it may have been given with."""
        return self._client.address.url("").partition("?")[0]

    @property
    def quota(self) -> Quota:
        """The quota that admits the model's requests: limits, their use, and event listeners."""
        return self._client.quota_of(self.model)

    async def aclose(self) -> None:
        """Close the connections, and a `transport` that was passed in; the model cannot be used afterwards.

        Not needed at exit: the connections of a model that is garbage collected close by themselves.
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
