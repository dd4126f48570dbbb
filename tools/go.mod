module github.com/sallyport/sallyport/tools

go 1.26
