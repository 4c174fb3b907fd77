defmodule Support.Forwarder do
  @moduledoc """
  A port forwarder, like that of a container's published port: accepts connections at one address and passes their
  bytes on to another. It runs in a VM of a test, in the network of that VM, and uses plain functions only.
  """

  @doc "Starts it. It ends with its VM."
  def start(ip, port, {_to_ip, _to_port} = to) do
    starter = self()

    spawn(fn ->
      {:ok, listener} = :gen_tcp.listen(port, [:binary, ip: ip, active: false, reuseaddr: true])
      send(starter, :listening)
      accept(listener, to)
    end)

    receive do
      :listening -> :ok
    end
  end

  defp accept(listener, {ip, port} = to) do
    {:ok, near} = :gen_tcp.accept(listener)

    pid =
      spawn(fn ->
        receive do
          :go -> :ok
        end

        {:ok, far} = :gen_tcp.connect(ip, port, [:binary, active: false])
        for socket <- [near, far], do: :inet.setopts(socket, active: true)
        pass(near, far)
      end)

    :ok = :gen_tcp.controlling_process(near, pid)
    send(pid, :go)
    accept(listener, to)
  end

  defp pass(near, far) do
    receive do
      {:tcp, ^near, bytes} -> pass_on(far, bytes, near, far)
      {:tcp, ^far, bytes} -> pass_on(near, bytes, near, far)
      {:tcp_closed, _} -> :ok
    end
  end

  defp pass_on(socket, bytes, near, far) do
    _ = :gen_tcp.send(socket, bytes)
    pass(near, far)
  end
end
