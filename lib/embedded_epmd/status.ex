defmodule EmbeddedEpmd.Status do
  @moduledoc """
  The state of this VM's server, as `EmbeddedEpmd.status/0` returns it.
  """

  alias EmbeddedEpmd.Boot.{Client, HostAddress, Lifecycle}
  alias EmbeddedEpmd.Native

  @timeout 5_000

  defstruct role: :stopped,
            since: nil,
            changes: 0,
            port: nil,
            addresses: [],
            owner: nil,
            owner_answers: true,
            standbys: [],
            stands_by: false,
            obstacle: nil,
            table: nil,
            socket_activated: false,
            descriptor_store: :nothing,
            names: nil

  @typedoc """
  The state of this VM's server.

    * `:role` - `:serving` when it owns the port, `:joined` when it is registered with another owner, `:searching`
      while it tries to bind the port or to join its owner, `:stopped` when the VM has no server
    * `:since` - when it took that role
    * `:changes` - how often the role changed
    * `:port` - the port
    * `:addresses` - the addresses it listens on when it serves
    * `:owner` - the address of the owner it joined, or `nil`
    * `:owner_answers` - false while that owner holds the port but does not answer
    * `:standbys` - in the VM that serves, the VMs that stand by for it: the name of the node, or `nil` if the VM did
      not report it, and the process id, or `nil` if it is not visible here
    * `:stands_by` - whether this VM stands by for the owner that it joined
    * `:obstacle` - what keeps this VM from standing by or, when it serves, keeps others from standing by for it, as far
      as it was tried: a clause, or `nil`
    * `:table` - where lookups, `names/0` and events of this VM come from. `:here` when it serves, and so has the
      table. `:copy` when it has a replica: its owner keeps that up to date, and it is used for up to 5 seconds while
      the port changes hands. `:owner` when it has no replica and asks its owner each time: the owner is OTP's daemon or
      belongs to another user that `:hand_over` does not name, or `:hand_over` is `false`. `nil` without a server
    * `:socket_activated` - whether the listeners come from a socket unit of systemd
    * `:descriptor_store` - how much of the table and its connections systemd's descriptor store holds for the next
      start of this service: `:all`, `:some` if the store has no more room, or `:nothing`
    * `:names` - how many names are registered, or `nil` if there is no server or its owner does not answer
  """
  @type t :: %__MODULE__{
          role: :serving | :joined | :searching | :stopped,
          since: DateTime.t() | nil,
          changes: non_neg_integer(),
          port: :inet.port_number() | nil,
          addresses: [String.t()],
          owner: String.t() | nil,
          owner_answers: boolean(),
          standbys: [%{name: String.t() | nil, pid: pos_integer() | nil}],
          stands_by: boolean(),
          obstacle: String.t() | nil,
          table: :here | :copy | :owner | nil,
          socket_activated: boolean(),
          descriptor_store: :all | :some | :nothing,
          names: non_neg_integer() | nil
        }

  @doc false
  @spec read() :: t()
  def read do
    case Lifecycle.server() do
      {:ok, server} ->
        status = struct!(__MODULE__, Native.status(server))
        %{status | since: DateTime.from_unix!(status.since, :millisecond), names: count(server, status)}

      :none ->
        %__MODULE__{}
    end
  end

  # Do not wait for an owner that is known not to answer.
  defp count(_server, %{owner_answers: false}), do: nil

  defp count(server, _status) do
    case names(server) do
      {:ok, names} -> length(names)
      {:error, _} -> nil
    end
  end

  @doc false
  # The registered names with their ports and users, from memory or from the owner.
  @spec names(Native.server()) ::
          {:ok, [{String.t(), :inet.port_number(), EmbeddedEpmd.user()}]} | {:error, atom()}
  def names(server) do
    case Native.names(server) do
      :elsewhere ->
        %{owner: owner, port: port} = Native.status(server)
        if owner, do: names_at(HostAddress.of_owner(owner), port), else: {:error, :searching}

      names ->
        {:ok, names}
    end
  end

  defp names_at(ip, port) do
    with {:ok, names} <- Client.names(ip, port, @timeout), do: {:ok, for({name, port} <- names, do: {name, port, nil})}
  end
end
