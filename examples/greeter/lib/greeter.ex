defmodule Greeter do
  @moduledoc """
  Greets whoever calls, from this node or another.
  """

  use GenServer

  require Logger

  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc """
  Asks the greeter on `node` for a greeting.

      iex> Greeter.greet(:"prod@127.0.0.1")
      "Hello stage@127.0.0.1, this is prod@127.0.0.1."
  """
  def greet(node \\ node()), do: GenServer.call({__MODULE__, node}, :greet)

  @impl true
  def init(nil) do
    Logger.info("#{node()} greets")
    {:ok, nil}
  end

  @impl true
  def handle_call(:greet, {caller, _tag}, state) do
    {:reply, "Hello #{node(caller)}, this is #{node()}.", state}
  end
end
