defmodule Greeter.Application do
  @moduledoc false

  use Application

  @impl true
  def start(_type, _args) do
    # EmbeddedEpmd is first, so it stops last, when no other child needs a lookup any more.
    children = [EmbeddedEpmd, Greeter]
    Supervisor.start_link(children, strategy: :one_for_one, name: Greeter.Supervisor)
  end
end
