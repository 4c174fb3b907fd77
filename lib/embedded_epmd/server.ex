defmodule EmbeddedEpmd.Server do
  @moduledoc false
  # Looks after the native server: claims it, turns its events into log messages, and ends when it ends, so that the
  # supervisor starts both again. A crash of this process does not interrupt service; its orderly stop ends it.

  use GenServer

  require Logger

  alias EmbeddedEpmd.{Config, Discovery, Native}

  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(options) do
    config = Config.load(options)
    GenServer.start_link(__MODULE__, {options, config}, name: __MODULE__)
  end

  @impl GenServer
  def init({options, config}) do
    Process.flag(:trap_exit, true)

    with {:ok, server} <- Discovery.ensure_server(options),
         :ok <- same_place(server, config),
         {:ok, :ok} <- Native.configure(server, config),
         {:ok, events} <- Native.claim(server, self()) do
      Enum.each(events, &log/1)
      {:ok, server}
    else
      {:error, reason} -> {:stop, reason}
    end
  end

  @impl GenServer
  def handle_info({:embedded_epmd, :log, event}, server) do
    log(event)
    {:noreply, server}
  end

  def handle_info({:embedded_epmd, :stopped, reason}, server) do
    {:stop, {:native_server_ended, reason}, server}
  end

  def handle_info(_other, server), do: {:noreply, server}

  @impl GenServer
  def terminate(reason, server) when reason in [:normal, :shutdown], do: Native.stop(server)
  def terminate({:shutdown, _}, server), do: Native.stop(server)
  def terminate(_crash, _server), do: :ok

  # Where to listen cannot change any more: it was decided while the VM booted.
  defp same_place(server, config) do
    case Native.status(server) do
      %{port: port} when port == config.port ->
        :ok

      %{port: port} ->
        {:error, "the server runs on port #{port}, but the option :port says #{config.port}"}
    end
  end

  defp log({level, text}), do: Logger.log(level, "embedded_epmd: " <> text)
end
