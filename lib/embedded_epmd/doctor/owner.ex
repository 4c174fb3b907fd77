defmodule EmbeddedEpmd.Doctor.Owner do
  @moduledoc false
  # Judges who has the port on this host. Pure.

  import EmbeddedEpmd.Doctor.Finding

  alias EmbeddedEpmd.Doctor.{Finding, Unregistered}

  @doc "The findings about the host, which are the same for every VM on it."
  @spec judge(map()) :: [Finding.t()]
  def judge(facts), do: List.flatten([holder(facts), stranger(facts), daemon(facts), Unregistered.judge(facts)])

  defp holder(%{sockets: :unknown, linux: true, port: port}) do
    warning(
      "Who owns port #{port} cannot be seen: /proc is hidden from this VM.",
      "Its unit or its container restricts it (ProtectProc=, ProcSubset=).",
      "Run as root on the host: ss -ltnp 'sport = :#{port}'"
    )
  end

  defp holder(%{sockets: :unknown, port: port}) do
    warning(
      "Who owns the port cannot be seen on this system.",
      "Only Linux shows it in /proc.",
      "Run as root: lsof -nP -iTCP:#{port} -sTCP:LISTEN"
    )
  end

  defp holder(%{sockets: [], names: {:ok, _}, port: port}) do
    warning(
      "Somebody answers on port #{port}, but no process of this host listens there.",
      "The port is forwarded, like a container's published port. The EPMD behind it takes no registrations from this host.",
      "Look for the forwarder (docker ps; iptables-save | grep #{port}), and give one of the two another port " <>
        "(ERL_EPMD_PORT)."
    )
  end

  defp holder(%{sockets: [], port: port}), do: ok("Nobody listens on port #{port}.")

  defp holder(%{sockets: sockets, holders: [], port: port}) do
    warning(
      "Port #{port} is owned by a process that this user cannot see, of user id #{users(sockets)}.",
      "It belongs to another user, or is hidden by the unit (ProtectProc=).",
      "Run as root: ss -ltnp 'sport = :#{port}'"
    )
  end

  defp holder(%{holders: [holder], port: port}), do: ok("Port #{port} is owned by #{program(holder)}.")

  defp holder(%{holders: holders, port: port}) do
    inodes = Enum.flat_map(holders, & &1.inodes)
    # Copies of a listener share an inode. Different inodes are listeners of different addresses.
    shared = if inodes == Enum.uniq(inodes), do: ".", else: ": by its owner, and by who stands by for it."
    ok("Port #{port} is held by #{programs(holders)}#{shared}")
  end

  defp users(sockets), do: sockets |> Enum.map(& &1.user) |> Enum.uniq() |> Enum.join(", ")
  defp programs(holders), do: Enum.map_join(holders, ", ", &program/1)
  defp program(holder), do: "#{holder.program} (pid #{holder.pid}, user id #{holder.user})"

  defp stranger(%{holders: holders, port: port}) do
    case Enum.reject(holders, &(&1.program =~ ~r/^(beam|epmd|systemd|init)/)) do
      [] ->
        []

      strangers ->
        warning(
          "#{programs(strangers)} has port #{port}, and is neither an Erlang VM nor epmd.",
          "If it forwards the port to another network, the EPMD there takes no registrations from this host. If it " <>
            "forwards connections from other hosts, every peer looks local, and may list the names.",
          "Give it another port, or give the nodes of this host another one (ERL_EPMD_PORT)."
        )
    end
  end

  defp daemon(%{holders: holders, port: port}) do
    case for(%{program: "epmd", pid: pid} <- holders, do: pid) do
      [] ->
        []

      pids ->
        warning(
          "An epmd daemon has port #{port}: pid #{Enum.join(pids, ", ")}.",
          "Nodes register with it. When it ends, a VM with embedded_epmd takes the port.",
          "Find out who starts it (an epmd.service or epmd.socket of systemd, a release without the flags), and remove that."
        )
    end
  end
end
