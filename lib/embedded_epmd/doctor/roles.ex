defmodule EmbeddedEpmd.Doctor.Roles do
  @moduledoc false
  # Which nodes of this host own the EPMD's port, and which stand by, as far as /proc shows. Owner and standby both
  # hold the listener. Only the owner has locked it (native/epmd_core/src/hand_over/lock.rs), which /proc/locks tells to
  # everybody.

  alias EmbeddedEpmd.Doctor.Linux

  @type role :: :owner | :standby
  @type t :: %{
          nodes: %{:inet.port_number() => role()},
          # The user who listens on the port of a node.
          users: %{:inet.port_number() => non_neg_integer()},
          # Processes with a role that are no node, such as OTP's daemon.
          others: [{role(), program :: String.t(), pid :: String.t()}]
        }

  @doc "The roles of the nodes with these ports. A node whose sockets this user cannot see has none."
  @spec of([:inet.port_number()], :inet.port_number()) :: t()
  def of(ports, epmd_port) do
    listening = with :unknown <- Linux.listening(), do: %{}
    epmd = for socket <- Map.get(listening, epmd_port, []), do: socket.inode
    owners = lock_holders(epmd)
    nodes = for port <- Enum.uniq(ports), socket <- Map.get(listening, port, []), do: {socket.inode, port}

    sockets = for inode <- epmd ++ Enum.map(nodes, &elem(&1, 0)), do: %{inode: inode, user: nil}
    roles = for holder <- Linux.holders(sockets, epmd_port), holds?(holder, epmd), do: {role(holder, owners), holder}

    users = for port <- ports, [%{user: user} | _] <- [Map.get(listening, port, [])], into: %{}, do: {port, user}

    Enum.reduce(roles, %{none() | users: users}, fn {role, holder}, known ->
      case for {inode, port} <- nodes, inode in holder.inodes, do: port do
        [] -> %{known | others: known.others ++ [{role, holder.program, holder.pid}]}
        ports -> %{known | nodes: Map.merge(known.nodes, Map.new(ports, &{&1, role}))}
      end
    end)
  end

  @doc "Nothing is known, as of another host."
  @spec none() :: t()
  def none, do: %{nodes: %{}, users: %{}, others: []}

  # OTP's daemon locks nothing.
  defp role(holder, owners), do: if(owners == [] or holder.pid in owners, do: :owner, else: :standby)

  defp holds?(holder, inodes), do: Enum.any?(holder.inodes, &(&1 in inodes))

  # The processes that have locked one of these sockets. Fields: number, kind, advisory, write, process, file (major:minor
  # number of the device, and inode), start, end.
  defp lock_holders(inodes) do
    case File.read("/proc/locks") do
      {:ok, text} ->
        for line <- String.split(text, "\n"),
            [_, "POSIX", _, "WRITE", pid, file | _] <- [String.split(line)],
            file |> String.split(":") |> List.last() |> then(&(&1 in inodes)),
            do: pid

      {:error, _} ->
        []
    end
  end
end
