# An image of Flair: the two programs, and nothing else. No shell, no packages; it runs as user 1000.
#
# `make image` builds it. It takes what it holds from a folder `root/`, laid out as the image will be, with programs that
# need no libraries: it pulls nothing and runs nothing.
FROM scratch
COPY --chown=1000:1000 root/ /
USER 1000:1000
# Key, settings and store are in .flair, working folders beside it: one volume keeps all.
ENV HOME=/home/flair FLAIR_HOME=/home/flair/.flair PATH=/bin
WORKDIR /home/flair
VOLUME /home/flair
EXPOSE 4001/tcp 4001/udp
STOPSIGNAL SIGTERM
# A container is reached at its own addresses, not at loopback.
ENTRYPOINT ["/bin/flair-node"]
CMD ["start", "--listen", "/ip4/0.0.0.0/tcp/4001", "--blobs-listen", "0.0.0.0:4001"]
